# cython: freethreading_compatible=False
"""The transport of nf_tables: attributes, messages, one socket, dumps, and batches that the kernel applies whole or not
at all.

Everything that comes from the kernel is read within its bounds. The kernel answers a request before `send` returns, so
no call waits for an answer.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.errno cimport EAGAIN, EBADF, EBUSY, EINTR, EINVAL, EMSGSIZE, ENOBUFS, ENOMEM, EPERM
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset, strerror, strlen

from ._linux cimport (
    AF_NETLINK, MSG_DONTWAIT, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_NETFILTER, NFNETLINK_V0, SOCK_CLOEXEC,
    SOCK_RAW, SOL_NETLINK, SOL_SOCKET, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, errno_now, htobe32,
    htobe64, htons, iovec, msghdr, nfgenmsg, nlattr, nlmsghdr, recv, send, sendmsg, setsockopt,
)
from ._applied cimport APPLIED, NOTHING, PERHAPS, Mark
from ._core cimport room_for
from ._netns cimport Namespace, cookie_of_socket, held_close, held_is_ours, held_set, socket_beside, socket_in
from .errors import RESOURCE_PROBLEM as _RESOURCE_PROBLEM
from .errors import KernelError, kernel_error

cdef enum:
    ATTRIBUTE_MOST = 0xffff
    MESSAGE_HEAD = 16            # struct nlmsghdr
    NFT_MSG_GETRULE_RESET = 25   # headers before Linux 6.2 do not have it
    # one answer of a dump is as large as the largest buffer that was used to receive, up to 32 KiB
    INBOX_ROOM = 65536
    ANSWER_WEIGHT = 4096         # the room that one answer takes in the socket's buffer, at most
    PATIENCE = 16                # after so many calls in a row that fail in passing, give up
    # Questions are numbered from here, messages of a batch from 1. So an answer to one is never taken for one to the
    # other.
    FIRST_QUESTION = 0x40000000

# --------------------------------------------------------------- attributes


cdef void attribute_scan(Attribute *cursor, const char *data, size_t length) noexcept nogil:
    """Begin to read the attributes in the *length* bytes at *data*."""
    memset(cursor, 0, sizeof(cursor[0]))
    cursor.at = data
    cursor.end = data + length


cdef bint attribute_next(Attribute *cursor) noexcept nogil:
    """Read the next attribute. Return False at the end, or if what follows is no attribute."""
    cdef size_t left = cursor.end - cursor.at, length
    if left < ATTRIBUTE_HEAD:
        return False
    length = (<const nlattr *> cursor.at).nla_len
    if length < ATTRIBUTE_HEAD or length > left:
        return False
    cursor.kind = (<const nlattr *> cursor.at).nla_type & NLA_TYPE_MASK
    cursor.data = cursor.at + ATTRIBUTE_HEAD
    cursor.length = length - ATTRIBUTE_HEAD
    length = (length + 3) & ~<size_t> 3
    cursor.at = cursor.end if length > left else cursor.at + length
    return True


cdef bint attribute_text(const Attribute *cursor, const char *text) noexcept nogil:
    """Whether the data of the attribute is *text*, with or without a NUL."""
    cdef size_t length = strlen(text)
    if cursor.length == length + 1 and cursor.data[length] == 0 or cursor.length == length:
        return _same(cursor.data, text, length)
    return False


cdef bint _same(const char *one, const char *other, size_t length) noexcept nogil:
    cdef size_t i
    for i in range(length):
        if one[i] != other[i]:
            return False
    return True


cdef uint32_t attribute_be32(const Attribute *cursor) noexcept nogil:
    """Return the data of the attribute as a 32-bit number in network order, or 0 if it is too short."""
    cdef uint32_t number
    if cursor.length < 4:
        return 0
    memcpy(&number, cursor.data, 4)
    return htobe32(number)


cdef uint64_t attribute_be64(const Attribute *cursor) noexcept nogil:
    """Return the data of the attribute as a 64-bit number in network order, or 0 if it is too short."""
    cdef uint64_t number
    if cursor.length < 8:
        return 0
    memcpy(&number, cursor.data, 8)
    return htobe64(number)


cdef bint writer_reserve(Writer *writer, size_t more) noexcept nogil:
    """Make space for *more* bytes. Return False, and set `failed`, if there is no memory."""
    cdef size_t room = writer.room
    cdef char *memory
    if writer.failed:
        return False
    if writer.room - writer.length >= more:
        return True
    while room - writer.length < more:
        room = room * 2 + 1024
    room = room_for(room, writer.length + more)
    memory = <char *> realloc(writer.memory, room)
    if memory == NULL:
        writer.failed = ENOMEM
        return False
    writer.memory = memory
    writer.room = room
    return True


cdef char *put_room(Writer *writer, int kind, size_t length) noexcept nogil:
    """Write an attribute of *length* zero bytes. Return the address of its data, or NULL."""
    cdef size_t whole = (ATTRIBUTE_HEAD + length + 3) & ~<size_t> 3
    cdef char *at
    if ATTRIBUTE_HEAD + length > ATTRIBUTE_MOST:
        writer.failed = EMSGSIZE
        return NULL
    if not writer_reserve(writer, whole):
        return NULL
    at = writer.memory + writer.length
    memset(at, 0, whole)
    (<nlattr *> at).nla_len = ATTRIBUTE_HEAD + length
    (<nlattr *> at).nla_type = kind
    writer.length += whole
    return at + ATTRIBUTE_HEAD


cdef void put(Writer *writer, int kind, const void *data, size_t length) noexcept nogil:
    """Write an attribute."""
    cdef char *room = put_room(writer, kind, length)
    if room != NULL and length:
        memcpy(room, data, length)


cdef void put_text(Writer *writer, int kind, const char *text) noexcept nogil:
    """Write an attribute with *text* and a NUL."""
    put(writer, kind, text, strlen(text) + 1)


cdef void put_be32(Writer *writer, int kind, uint32_t number) noexcept nogil:
    """Write an attribute with a 32-bit number in network order."""
    number = htobe32(number)
    put(writer, kind, &number, 4)


cdef void put_be64(Writer *writer, int kind, uint64_t number) noexcept nogil:
    """Write an attribute with a 64-bit number in network order."""
    number = htobe64(number)
    put(writer, kind, &number, 8)


cdef size_t nest(Writer *writer, int kind) noexcept nogil:
    """Begin an attribute that contains attributes. The caller gives the result to `nest_end`."""
    cdef size_t start = writer.length
    put_room(writer, kind | NLA_F_NESTED, 0)
    return start


cdef void nest_end(Writer *writer, size_t start) noexcept nogil:
    """End the nested attribute that began at *start*."""
    cdef size_t length = writer.length - start
    if writer.failed:
        return
    if length > ATTRIBUTE_MOST:
        writer.failed = EMSGSIZE
        return
    (<nlattr *> (writer.memory + start)).nla_len = length


# ----------------------------------------------------------------- messages

cdef void message_scan(Message *cursor, const char *data, size_t length) noexcept nogil:
    """Begin to read the messages in the *length* bytes at *data*."""
    memset(cursor, 0, sizeof(cursor[0]))
    cursor.at = data
    cursor.end = data + length


cdef bint message_next(Message *cursor) noexcept nogil:
    """Read the next message. Return False at the end, or if what follows is no message."""
    cdef size_t left = cursor.end - cursor.at, length, head = MESSAGE_HEAD
    cdef const nlmsghdr *header = <const nlmsghdr *> cursor.at
    if left < MESSAGE_HEAD:
        return False
    length = header.nlmsg_len
    if length < MESSAGE_HEAD or length > left:
        return False
    cursor.kind = header.nlmsg_type
    cursor.flags = header.nlmsg_flags
    cursor.sequence = header.nlmsg_seq
    cursor.nfproto = 0
    if header.nlmsg_type >> 8 == NFNL_SUBSYS_NFTABLES:
        if length < GENERAL_HEAD:
            return False
        cursor.kind = header.nlmsg_type & 0xff
        cursor.nfproto = (<const nfgenmsg *> (cursor.at + MESSAGE_HEAD)).nfgen_family
        head = GENERAL_HEAD
    elif header.nlmsg_type >= 16:
        return False                # a message of another subsystem than nf_tables
    else:
        # a message of netlink itself: negative kinds keep it apart from the messages of nf_tables
        cursor.kind = -<int> header.nlmsg_type
    cursor.attributes = cursor.at + head
    cursor.length = length - head
    length = (length + 3) & ~<size_t> 3
    cursor.at = cursor.end if length > left else cursor.at + length
    return True


cdef size_t message_begin(Writer *writer, int kind, int flags, int nfproto, uint32_t sequence) noexcept nogil:
    """Begin a message of nf_tables, or of netlink itself if *kind* is negative. The caller gives the result to
    `message_end`."""
    cdef size_t start = writer.length
    cdef nlmsghdr *header
    cdef nfgenmsg *general
    if not writer_reserve(writer, GENERAL_HEAD):
        return start
    header = <nlmsghdr *> (writer.memory + start)
    general = <nfgenmsg *> (writer.memory + start + MESSAGE_HEAD)
    header.nlmsg_len = GENERAL_HEAD
    header.nlmsg_type = -kind if kind < 0 else NFNL_SUBSYS_NFTABLES << 8 | kind
    header.nlmsg_flags = NLM_F_REQUEST | flags
    header.nlmsg_seq = sequence
    header.nlmsg_pid = 0
    general.nfgen_family = nfproto
    general.version = NFNETLINK_V0
    general.res_id = htons(NFNL_SUBSYS_NFTABLES) if kind < 0 else 0
    writer.length += GENERAL_HEAD
    return start


cdef void message_end(Writer *writer, size_t start) noexcept nogil:
    """End the message that began at *start*."""
    if not writer.failed:
        (<nlmsghdr *> (writer.memory + start)).nlmsg_len = writer.length - start


# ---------------------------------------------------------------- the socket

cdef int _prepare(Channel *channel, int fd) noexcept nogil:
    """Set up *channel* to use the socket *fd*. Return 0 or an errno."""
    cdef int on = 1
    memset(channel, 0, sizeof(channel[0]))
    channel.sequence = FIRST_QUESTION
    held_set(&channel.held, fd)
    # an answer with an error need not contain the request
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on))
    setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on))
    if not writer_reserve(&channel.inbox, INBOX_ROOM):
        channel_close(channel)
        return ENOMEM
    return 0


cdef int channel_open(Channel *channel, int netns) noexcept nogil:
    """Open a socket in the network namespace of descriptor *netns*; -1 is that of this thread. Return 0 or an errno."""
    cdef int fd = -1
    cdef int failed = socket_in(netns, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER, &fd)
    return failed or _prepare(channel, fd)


cdef bint channel_beside(Channel *channel, const Channel *other) noexcept nogil:
    """Open *channel* in the network namespace of *other*, unless it is open. Return False if that fails."""
    cdef int fd = -1
    if channel_is_ours(channel):
        return True
    channel_close(channel)
    if socket_beside(other.held.fd, AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER, &fd):
        return False
    return _prepare(channel, fd) == 0


cdef bint channel_is_ours(const Channel *channel) noexcept nogil:
    """Whether the socket is open and still ours. If the program closed its descriptor, that number may be another
    file."""
    return held_is_ours(&channel.held)


cdef void channel_close(Channel *channel) noexcept nogil:
    """Close the socket and free its buffers. A second call does nothing."""
    held_close(&channel.held)
    free(channel.request.memory)
    free(channel.inbox.memory)
    memset(channel, 0, sizeof(channel[0]))
    channel.held.fd = -1


cdef ssize_t _receive(Channel *channel) noexcept nogil:
    """Receive one answer into the inbox, without waiting. Return its length, or a negative errno."""
    cdef ssize_t length
    for _ in range(PATIENCE):
        length = recv(channel.held.fd, channel.inbox.memory, channel.inbox.room, MSG_DONTWAIT)
        if length > 0:
            return length
        if length == 0:
            return -EINVAL
        if errno_now != EINTR:
            break
    return -errno_now


cdef int _settle(Channel *channel) noexcept nogil:
    """Receive and drop the rest of a dump that was not read to its end. The kernel makes one dump at a time for a
    socket."""
    cdef int misses = 0
    cdef ssize_t length
    while misses < PATIENCE:
        length = _receive(channel)
        if length == -EAGAIN:
            return 0
        misses = misses + 1 if length < 0 else 0
    return -length


cdef int _ask(Channel *channel, int kind, int flags, int nfproto, const char *attributes, size_t length) noexcept nogil:
    """Send one request."""
    cdef size_t start
    channel.sequence += 1
    channel.answered = False
    channel.request.length = 0
    start = message_begin(&channel.request, kind, flags, nfproto, channel.sequence)
    if length and writer_reserve(&channel.request, length):
        memcpy(channel.request.memory + channel.request.length, attributes, length)
        channel.request.length += length
    message_end(&channel.request, start)
    return _send_request(channel)


cdef int _send_request(Channel *channel) noexcept nogil:
    """Send what was written into `channel.request`. Return 0 or an errno."""
    if channel.request.failed:
        channel.request.failed = 0
        return ENOMEM
    for _ in range(PATIENCE):
        if send(channel.held.fd, channel.request.memory, channel.request.length, 0) >= 0:
            return 0
        if errno_now != EINTR:
            break
    return errno_now


cdef int _verdict(const Message *message) noexcept nogil:
    """Return the errno in an answer (struct nlmsgerr, at least four bytes), or 0."""
    cdef int error = (<const int *> message.attributes)[0]
    return -error if -4096 < error <= 0 else EINVAL


cdef int _answers(Channel *channel, bint dump, Receiver receiver, void *context, bint *interrupted) noexcept nogil:
    """Give the answer to the last request to *receiver*; of a dump, all messages of all answers."""
    cdef Message message
    cdef ssize_t length
    cdef int failed = 0
    cdef bint is_first
    interrupted[0] = False
    channel.parts = 0
    while True:
        length = _receive(channel)
        if length < 0:
            return ENOBUFS if length == -EAGAIN else -length
        is_first = True
        message_scan(&message, channel.inbox.memory, length)
        while message_next(&message):
            if message.sequence != channel.sequence:
                continue             # drop the rest of a dump that failed
            if message.flags & NLM_F_DUMP_INTR:
                interrupted[0] = True
            if message.kind == -NLMSG_ERROR or message.kind == -NLMSG_DONE:
                channel.answered = True
                if message.length < 4:
                    return failed
                return failed or _verdict(&message)
            if message.kind >= 0 and not failed:
                channel.parts += is_first
                is_first = False
                failed = receiver(context, &message)
                if not dump:
                    return failed


cdef int channel_dump(Channel *channel, int kind, int nfproto, const char *attributes, size_t length,
                      Receiver receiver, void *context, bint *interrupted) noexcept nogil:
    """Request a dump and give each message to *receiver*. *interrupted*: the ruleset changed during the dump."""
    cdef int failed = 0
    for _ in range(2):
        failed = (_ask(channel, kind, NLM_F_DUMP, nfproto, attributes, length)
                  or _answers(channel, True, receiver, context, interrupted))
        if failed != EBUSY or _settle(channel):
            break
    return failed


cdef int channel_get(Channel *channel, int kind, int nfproto, const char *attributes, size_t length,
                     Receiver receiver, void *context) noexcept nogil:
    """Request one object and give its message to *receiver*."""
    cdef bint interrupted
    cdef int failed = _ask(channel, kind, 0, nfproto, attributes, length)
    return failed or _answers(channel, False, receiver, context, &interrupted)


cdef int _take_generation(void *context, const Message *message) noexcept nogil:
    cdef Attribute attribute
    attribute_scan(&attribute, message.attributes, message.length)
    while message.kind == NFT_MSG_NEWGEN and attribute_next(&attribute):
        if attribute.kind == NFTA_GEN_ID:
            (<uint32_t *> context)[0] = attribute_be32(&attribute)
    return 0


cdef int channel_generation(Channel *channel, uint32_t *generation) noexcept nogil:
    """Store the generation of the ruleset in *generation*. Each commit in this network namespace raises it."""
    return channel_get(channel, NFT_MSG_GETGEN, 0, NULL, 0, _take_generation, generation)


cdef int channel_wait_for_commit(Channel *channel) noexcept nogil:
    """Wait until no commit in this network namespace is in progress. Return 0 or an errno.

    A commit raises the generation first. Then it shows its rules, and removes the tables that it deletes. A dump in
    between belongs to the new generation, but has the rules of before, or none: the kernel looks for them in a table
    that is deleted and created again by the same commit, and finds the old one. An empty batch takes the lock of
    commits, and changes nothing.
    """
    channel.request.length = 0
    message_begin(&channel.request, -<int> NFNL_MSG_BATCH_BEGIN, 0, 0, 0)
    message_begin(&channel.request, -<int> NFNL_MSG_BATCH_END, 0, 0, 1)
    return _send_request(channel)


cdef int _keep_message(void *context, const Message *message) noexcept nogil:
    """Append a copy of the message, padded to four bytes, to the buffer *context*."""
    cdef Writer *kept = <Writer *> context
    cdef size_t length = GENERAL_HEAD + message.length
    cdef size_t whole = (length + 3) & ~<size_t> 3
    if not writer_reserve(kept, whole):
        return ENOMEM
    memset(kept.memory + kept.length + length, 0, whole - length)
    memcpy(kept.memory + kept.length, message.attributes - GENERAL_HEAD, length)
    kept.length += whole
    return 0


class AnswerLost(KernelError):
    """A batch was sent, and the kernel's answer was lost: the batch is perhaps applied."""


cdef str _strerror(int error):
    """Return the text that iptables prints for errno *error* of nf_tables."""
    return "Permission denied (you must be root) without CAP_NET_ADMIN" if error == EPERM else strerror(error).decode()


cdef class Socket:
    """A netlink socket for nf_tables (`NFNL_SUBSYS_NFTABLES`). One thread can use it at a time.

    It stays in the network namespace in which it was opened. Messages are bytes in the kernel's format: `struct
    nlmsghdr`, `struct nfgenmsg`, attributes. Raises `AccessDenied` without CAP_NET_ADMIN.
    """

    def __cinit__(self):
        self.channel.held.fd = self.beside.held.fd = -1

    def __dealloc__(self):
        self._close()

    cdef void _close(self) noexcept:
        # closing may wait until the kernel has freed deleted objects (an RCU grace period)
        with nogil:
            channel_close(&self.channel)
            channel_close(&self.beside)

    def __init__(self, Namespace there=None):
        cdef int failed, netns = -1 if there is None else there.where()
        self._close()
        with nogil:
            failed = channel_open(&self.channel, netns)
        if failed < 0:
            there.check(failed, "")
        self._check(failed, "can't open nf_tables")

    cdef int _check(self, int failed, str what) except -1:
        if failed:
            raise kernel_error(what, failed, _strerror(failed), _RESOURCE_PROBLEM)
        return 0

    cdef int _open(self) except -1:
        if not channel_is_ours(&self.channel):
            raise KernelError("this socket is closed", EBADF, "Bad file descriptor")
        return 0

    def close(self):
        """Close the socket."""
        self._close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    @property
    def closed(self):
        """Whether the socket was closed."""
        return self.channel.held.fd < 0

    def is_ready(self):
        """Drop the answers that were not received. Return whether the socket is open and still ours, and can be used
        again."""
        cdef bint ours
        with nogil:
            ours = channel_is_ours(&self.channel)
            if ours:
                _settle(&self.channel)
        return ours

    def cookie(self, Namespace there=None):
        """Return the cookie of the socket's network namespace, which is *there*, or that of this thread."""
        self._open()
        return cookie_of_socket(self.channel.held.fd, -1 if there is None else there.where())

    def generation(self):
        """Return the generation of the ruleset (`NFT_MSG_GETGEN`). Each commit in this network namespace raises it."""
        cdef uint32_t generation = 0
        cdef int failed
        self._open()
        with nogil:
            failed = channel_generation(&self.channel, &generation)
        self._check(failed, "can't read nf_tables")
        return generation

    def get(self, int kind, int nfproto, bytes attributes not None=b""):
        """Return the messages that answer one request, as bytes. Raises `NotFound` if the object does not exist."""
        return self._read(kind, nfproto, attributes, False)[0]

    def dump(self, int kind, int nfproto, bytes attributes not None=b""):
        """Return (the messages of a dump as bytes, whether the ruleset changed during the dump)."""
        return self._read(kind, nfproto, attributes, True)

    cdef tuple _read(self, int kind, int nfproto, bytes attributes, bint dump):
        cdef Writer kept
        cdef const char *raw = PyBytes_AS_STRING(attributes)
        cdef size_t length = PyBytes_GET_SIZE(attributes)
        cdef bint interrupted = False
        cdef int failed
        self._open()
        memset(&kept, 0, sizeof(kept))
        try:
            with nogil:
                if dump:
                    failed = channel_dump(&self.channel, kind, nfproto, raw, length, _keep_message, &kept, &interrupted)
                else:
                    failed = channel_get(&self.channel, kind, nfproto, raw, length, _keep_message, &kept)
            self._check(failed, "can't read nf_tables")
            return PyBytes_FromStringAndSize(kept.memory, kept.length), interrupted
        finally:
            free(kept.memory)

    def zero_rule(self, int nfproto, bytes table not None, bytes chain not None, uint64_t handle):
        """Set the counters of one rule to zero at once, without a batch (`NFT_MSG_GETRULE_RESET`, Linux 6.2 and
        later)."""
        self._ask_for_rule(NFT_MSG_GETRULE_RESET, nfproto, table, chain, handle)

    def get_rule(self, int nfproto, bytes table not None, bytes chain not None, uint64_t handle):
        """Return the message of one rule (`NFT_MSG_GETRULE`). Raises `NotFound` if it does not exist."""
        return self._ask_for_rule(NFT_MSG_GETRULE, nfproto, table, chain, handle)

    def _ask_for_rule(self, int kind, int nfproto, bytes table, bytes chain, uint64_t handle):
        cdef Writer question
        memset(&question, 0, sizeof(question))
        try:
            put_text(&question, NFTA_RULE_TABLE, PyBytes_AS_STRING(table))
            put_text(&question, NFTA_RULE_CHAIN, PyBytes_AS_STRING(chain))
            put_be64(&question, NFTA_RULE_HANDLE, handle)
            if question.failed:
                raise MemoryError
            return self.get(kind, nfproto, question.memory[:question.length])
        finally:
            free(question.memory)

    def send(self, Batch batch not None, generation=None, bint test=False, list marks=None):
        """Send *batch*. The kernel applies all of it or nothing. Return [(message, errno, text), ...] for what it
        refused.

        *message* is the number of a message of the batch, or -1 for the whole batch: ERESTART if *generation* is given
        and the ruleset has another one. With *test* the kernel checks everything and applies nothing. Raises
        `AnswerLost` if it is not known whether the batch was applied; after any other exception it was not. The state
        is also recorded in *marks* (`_applied.Mark`) before this returns or raises.
        """
        cdef Writer begin, end
        cdef iovec parts[3]
        cdef msghdr message
        cdef size_t start
        cdef int size, failed = 0
        cdef ssize_t sent
        self._open()
        for each in marks or ():
            if not isinstance(each, Mark):
                raise TypeError(f"a mark must be a Mark, not {type(each).__name__}")
        if batch.writer.failed:
            raise MemoryError
        if not batch.message_count:
            return []
        memset(&begin, 0, sizeof(begin))
        memset(&end, 0, sizeof(end))
        memset(&message, 0, sizeof(message))
        try:
            start = message_begin(&begin, -<int> NFNL_MSG_BATCH_BEGIN, 0, 0, 0)
            if generation is not None:
                put_be32(&begin, NFNL_BATCH_GENID, generation)
            message_end(&begin, start)
            # without the end of the batch, the kernel checks the messages and then undoes them
            message_begin(&end, -<int> NFNL_MSG_BATCH_END, 0, 0, batch.message_count + 1)
            if begin.failed or end.failed:
                raise MemoryError
            # the last message requests an answer, since otherwise no answer would mean success
            (<nlmsghdr *> (batch.writer.memory + batch.last)).nlmsg_flags |= NLM_F_ACK
            parts[0].iov_base, parts[0].iov_len = begin.memory, begin.length
            parts[1].iov_base, parts[1].iov_len = batch.writer.memory, batch.writer.length
            parts[2].iov_base, parts[2].iov_len = end.memory, end.length
            message.msg_iov = parts
            message.msg_iovlen = 2 if test else 3
            # not less than a new socket has, since the next batch may be larger and raising the limit may fail
            size = _at_most(batch.writer.length + 262144)
            _set_buffer(self.channel.held.fd, SO_SNDBUFFORCE, SO_SNDBUF, size)
            size = _at_most(batch.message_count * <size_t> ANSWER_WEIGHT + 262144)
            _set_buffer(self.channel.held.fd, SO_RCVBUFFORCE, SO_RCVBUF, size)
            # answers to an earlier batch or dump that were not received are dropped
            _settle(&self.channel)
            if not test:
                _note(marks, PERHAPS)
            with nogil:
                for _ in range(PATIENCE):
                    sent = sendmsg(self.channel.held.fd, &message, 0)
                    failed = 0 if sent >= 0 else errno_now
                    if failed != EINTR:
                        break
            if failed:
                _note(marks, NOTHING)
            if failed == EMSGSIZE:
                words = f"a batch of {batch.writer.length} bytes is more than this process may send (net.core.wmem_max)"
                raise kernel_error("can't commit", failed, words, _RESOURCE_PROBLEM)
            self._check(failed, "can't send to nf_tables")
            return self._refusals(batch.message_count, marks)
        finally:
            free(begin.memory)
            free(end.memory)

    cdef list _refusals(self, uint32_t last, list marks):
        """Receive what the kernel refused of the batch that was just sent; [] if it was applied. *last* is the number
        of its last message."""
        cdef list refused = []
        cdef Message message
        cdef ssize_t length
        cdef int failed = 0, misses = 0
        cdef bint accepted = False, overrun = False
        while misses < PATIENCE:
            with nogil:
                length = _receive(&self.channel)
            if length == -EAGAIN and refused:
                break
            if length < 0:
                # ENOBUFS: there were more errors than the buffer has room for; the first ones are in it
                failed = -length
                overrun = overrun or failed == ENOBUFS
                misses += 1
                continue
            message_scan(&message, self.channel.inbox.memory, length)
            while message_next(&message):
                if message.kind != -NLMSG_ERROR or message.length < 4 or message.sequence > last:
                    continue
                failed = _verdict(&message)
                if failed:
                    # if one message is refused, nothing is applied
                    _note(marks, NOTHING)
                    refused.append((<Py_ssize_t> message.sequence - 1, failed, _explanation(&message)))
                accepted = accepted or not failed
                if message.sequence == last:
                    misses = PATIENCE       # errors come in the order of the messages, so this was the last one
        if not refused and (overrun or not accepted):
            failed = ENOBUFS if overrun or failed == EAGAIN else failed
            raise AnswerLost(f"can't read the answer of nf_tables: {_strerror(failed)}", failed, _strerror(failed))
        if not refused:
            _note(marks, APPLIED)
        refused.sort()
        return refused


cdef void _note(list marks, int state) noexcept:
    """Record *state* on each of *marks*, if there are any."""
    cdef Py_ssize_t i
    if marks is not None:
        for i in range(PyList_GET_SIZE(marks)):
            (<Mark> <object> PyList_GET_ITEM(marks, i)).state = state


cdef int _at_most(size_t size) noexcept nogil:
    return <int> size if size < 0x3fffffff else 0x3fffffff


cdef void _set_buffer(int fd, int forced, int plain, int size) noexcept nogil:
    if setsockopt(fd, SOL_SOCKET, forced, &size, sizeof(size)) < 0:
        setsockopt(fd, SOL_SOCKET, plain, &size, sizeof(size))


cdef str _explanation(const Message *message):
    """Return the kernel's text for an error (NLMSGERR_ATTR_MSG), or "" if there is none."""
    cdef Attribute attribute
    if not message.flags & NLM_F_ACK_TLVS or message.length < 20:
        return ""
    # after struct nlmsgerr: an errno, and the header of the message that was refused
    attribute_scan(&attribute, message.attributes + 20, message.length - 20)
    while attribute_next(&attribute):
        if attribute.kind == NLMSGERR_ATTR_MSG and attribute.length:
            return attribute.data[:attribute.length - 1].decode("utf-8", "replace")
    return ""


# ------------------------------------------------------------------ batches

cdef class Batch:
    """Messages that are applied together. Names are bytes. Each method that adds a message returns its number, from
    0."""

    def __dealloc__(self):
        free(self.writer.memory)

    cdef size_t _begin(self, int kind, int flags, int nfproto, int table_kind, bytes table):
        cdef size_t start
        self.message_count += 1
        start = self.last = message_begin(&self.writer, kind, flags, nfproto, self.message_count)
        put_text(&self.writer, table_kind, PyBytes_AS_STRING(table))
        return start

    cdef Py_ssize_t end(self, size_t start) except -1:
        """End the message that began at *start*. Return its number."""
        if self.writer.failed:
            raise MemoryError
        message_end(&self.writer, start)
        return self.message_count - 1

    def add_table(self, int nfproto, bytes table not None, uint32_t flags=0):
        """Create a table with *flags* (NFT_TABLE_F_*), or set the flags of the table if it exists."""
        cdef size_t start = self._begin(NFT_MSG_NEWTABLE, NLM_F_CREATE, nfproto, NFTA_TABLE_NAME, table)
        if flags:
            put_be32(&self.writer, NFTA_TABLE_FLAGS, flags)
        return self.end(start)

    def delete_table(self, int nfproto, bytes table not None):
        """Delete a table with all its chains and rules."""
        return self.end(self._begin(NFT_MSG_DELTABLE, 0, nfproto, NFTA_TABLE_NAME, table))

    def add_chain(self, int nfproto, bytes table not None, bytes chain not None):
        """Create a user chain. The kernel refuses it if the chain exists."""
        cdef size_t start = self._begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, nfproto, NFTA_CHAIN_TABLE, table)
        put_text(&self.writer, NFTA_CHAIN_NAME, PyBytes_AS_STRING(chain))
        return self.end(start)

    def add_base_chain(self, int nfproto, bytes table not None, bytes chain not None, int hook, bytes kind not None,
                       int priority, policy=None, counters=None):
        """Create a base chain, or change it if it exists: its policy (0 drop, 1 accept) and counters, if they are
        given."""
        cdef size_t start = self._begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE, nfproto, NFTA_CHAIN_TABLE, table)
        cdef size_t inner
        put_text(&self.writer, NFTA_CHAIN_NAME, PyBytes_AS_STRING(chain))
        inner = nest(&self.writer, NFTA_CHAIN_HOOK)
        put_be32(&self.writer, NFTA_HOOK_HOOKNUM, hook)
        put_be32(&self.writer, NFTA_HOOK_PRIORITY, <uint32_t> priority)
        nest_end(&self.writer, inner)
        put_text(&self.writer, NFTA_CHAIN_TYPE, PyBytes_AS_STRING(kind))
        if policy is not None:
            put_be32(&self.writer, NFTA_CHAIN_POLICY, policy)
        if counters is not None:
            inner = nest(&self.writer, NFTA_CHAIN_COUNTERS)
            put_be64(&self.writer, NFTA_COUNTER_PACKETS, counters[0])
            put_be64(&self.writer, NFTA_COUNTER_BYTES, counters[1])
            nest_end(&self.writer, inner)
        return self.end(start)

    def rename_chain(self, int nfproto, bytes table not None, uint64_t handle, bytes name not None):
        """Rename the chain with *handle*."""
        cdef size_t start = self._begin(NFT_MSG_NEWCHAIN, 0, nfproto, NFTA_CHAIN_TABLE, table)
        put_be64(&self.writer, NFTA_CHAIN_HANDLE, handle)
        put_text(&self.writer, NFTA_CHAIN_NAME, PyBytes_AS_STRING(name))
        return self.end(start)

    def delete_chain(self, int nfproto, bytes table not None, bytes chain not None):
        """Delete a chain. The kernel refuses it if the chain has rules."""
        cdef size_t start = self._begin(NFT_MSG_DELCHAIN, NLM_F_NONREC, nfproto, NFTA_CHAIN_TABLE, table)
        put_text(&self.writer, NFTA_CHAIN_NAME, PyBytes_AS_STRING(chain))
        return self.end(start)

    cdef size_t _rule(self, int kind, int flags, int nfproto, bytes table, bytes chain):
        cdef size_t start = self._begin(kind, flags, nfproto, NFTA_RULE_TABLE, table)
        put_text(&self.writer, NFTA_RULE_CHAIN, PyBytes_AS_STRING(chain))
        return start

    cdef void _paste(self, bytes attributes) noexcept:
        if writer_reserve(&self.writer, PyBytes_GET_SIZE(attributes)):
            memcpy(self.writer.memory + self.writer.length, PyBytes_AS_STRING(attributes), PyBytes_GET_SIZE(attributes))
            self.writer.length += PyBytes_GET_SIZE(attributes)

    cdef size_t begin_appended(self, int nfproto, bytes table, bytes chain):
        """Begin the message that appends a rule. The caller writes the attributes of the rule, and calls `end`."""
        cdef size_t start = self._rule(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, nfproto, table, chain)
        put_be32(&self.writer, NFTA_RULE_ID, self.message_count)
        return start

    def add_rule(self, int nfproto, bytes table not None, bytes chain not None, bytes rule not None):
        """Append *rule*: attributes, as `nft.codec.encode` returns them. The result is the number by which later
        messages of this batch name the rule."""
        cdef size_t start = self.begin_appended(nfproto, table, chain)
        self._paste(rule)
        return self.end(start)

    def insert_rule(self, int nfproto, bytes table not None, bytes chain not None, bytes rule not None, handle=None,
                    number=None):
        """Insert *rule* before the rule with *handle*, or before the rule of message *number*, or at the head of the
        chain."""
        cdef size_t start = self._rule(NFT_MSG_NEWRULE, NLM_F_CREATE, nfproto, table, chain)
        put_be32(&self.writer, NFTA_RULE_ID, self.message_count)
        if handle is not None:
            put_be64(&self.writer, NFTA_RULE_POSITION, handle)
        elif number is not None:
            put_be32(&self.writer, NFTA_RULE_POSITION_ID, number + 1)
        self._paste(rule)
        return self.end(start)

    def replace_rule(self, int nfproto, bytes table not None, bytes chain not None, bytes rule not None,
                     uint64_t handle):
        """Replace the rule with *handle* by *rule*."""
        cdef size_t start = self._rule(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_REPLACE, nfproto, table, chain)
        put_be32(&self.writer, NFTA_RULE_ID, self.message_count)
        put_be64(&self.writer, NFTA_RULE_HANDLE, handle)
        self._paste(rule)
        return self.end(start)

    def delete_rule(self, int nfproto, bytes table not None, bytes chain not None, handle=None, number=None):
        """Delete the rule with *handle*, or the rule of message *number*. With neither, delete all rules of the
        chain."""
        cdef size_t start = self._rule(NFT_MSG_DELRULE, 0, nfproto, table, chain)
        if handle is not None:
            put_be64(&self.writer, NFTA_RULE_HANDLE, handle)
        elif number is not None:
            put_be32(&self.writer, NFTA_RULE_ID, number + 1)
        return self.end(start)


# ----------------------------------------------------- attributes for Python

def attribute(int kind, bytes data not None):
    """Return one attribute as bytes, padded to four bytes."""
    cdef Writer writer
    memset(&writer, 0, sizeof(writer))
    try:
        put(&writer, kind, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if writer.failed == ENOMEM:
            raise MemoryError
        if writer.failed:
            raise kernel_error("can't build a message", EINVAL, "the attribute is too long")
        return PyBytes_FromStringAndSize(writer.memory, writer.length)
    finally:
        free(writer.memory)


def attributes(bytes data not None):
    """Return [(kind, data), ...] of the attributes in *data*. Reading stops at bytes that are no attribute."""
    cdef Attribute cursor
    cdef list found = []
    attribute_scan(&cursor, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    while attribute_next(&cursor):
        found.append((cursor.kind, PyBytes_FromStringAndSize(cursor.data, cursor.length)))
    return found


def messages_in(bytes data not None):
    """Return [(kind, family, attributes), ...] of the messages in *data*. Reading stops at bytes that are no
    message."""
    cdef Message cursor
    cdef list found = []
    message_scan(&cursor, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    while message_next(&cursor):
        found.append((cursor.kind, cursor.nfproto, PyBytes_FromStringAndSize(cursor.attributes, cursor.length)))
    return found
