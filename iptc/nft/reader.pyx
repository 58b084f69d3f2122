# cython: freethreading_compatible=False
"""Reads a table of nf_tables: its chains, the messages of its rules, and the counters in them.

Rules are dumped chain by chain, since a dump of a whole table costs the square of the number of its rules. The kernel
has no lock for readers. What was read belongs to one generation of the ruleset, or is read again. Where others write
all the time, each chain is as it was at one moment.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, ENOENT, ENOMEM, EPERM
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memset, strcmp, strlen

from .._linux cimport (
    CPU_COUNT, SIG_SETMASK, cpu_set_t, pthread_create, pthread_join, pthread_sigmask, pthread_t, sched_getaffinity,
    sigfillset, sigset_t)
from .._counts cimport (
    Counts, Digest, HandleIndex, Scan, digest_absorb, digest_begin, digest_finish, handle_index, handle_number)
from .._core cimport c_text, family_of, os_decode
from .._netlink cimport (
    NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWTABLE,
    NFTA_CHAIN_COUNTERS, NFTA_CHAIN_HANDLE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE,
    NFTA_CHAIN_TYPE, NFTA_CHAIN_USE, NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, NFTA_EXPR_DATA, NFTA_EXPR_NAME,
    NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_QUOTA_CONSUMED, NFTA_QUOTA_FLAGS, NFT_QUOTA_F_DEPLETED,
    NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_POSITION, NFTA_RULE_USERDATA,
    NFTA_TABLE_HANDLE, GENERAL_HEAD,
    Attribute, Channel, Message, Socket, attribute_be32, attribute_be64, attribute_next, attribute_scan,
    attribute_text, channel_beside, channel_dump, channel_generation, channel_get, channel_is_ours,
    channel_wait_for_commit, message_next, message_scan, put_be64, put_text, writer_reserve)
from .._netns cimport Namespace
from .._core import HOOKS
from ..errors import Conflict, KernelError, kernel_error

cdef enum:
    NF_DROP = 0
    NF_ACCEPT = 1
    ATTEMPTS = 64
    PATIENCE = 4                 # how often all chains are read again if the generation has changed meanwhile
    # with so many rules a second thread is worth its cost, which is that of about fifty rules
    WORTH_TWO = 1024

# The base chains of iptables-nft: table -> ((hook, type, priority), …), in hook order.
BUILTIN_CHAINS = {
    "raw": ((0, "filter", -300), (3, "filter", -300)),
    "mangle": ((0, "filter", -150), (1, "filter", -150), (2, "filter", -150), (3, "route", -150), (4, "filter", -150)),
    "nat": ((0, "nat", -100), (1, "nat", 100), (3, "nat", -100), (4, "nat", 100)),
    "filter": ((1, "filter", 0), (2, "filter", 0), (3, "filter", 0)),
    "security": ((1, "filter", 150), (2, "filter", 150), (3, "filter", 150)),
}

# ------------------------------------------------------------------ chains


cdef inline ListedChain *_rows(ChainList *chains) noexcept nogil:
    return <ListedChain *> chains.rows.memory


cdef inline size_t _row_count(ChainList *chains) noexcept nogil:
    return chains.rows.length // sizeof(ListedChain)


cdef ListedChain *_add_row(ChainList *chains, const char *name, size_t length) noexcept nogil:
    """Add a row for a chain. Return it, or NULL if there is no memory."""
    cdef ListedChain *row
    cdef size_t whole = (length + 4) & ~<size_t> 3
    if not writer_reserve(&chains.rows, sizeof(ListedChain)) or not writer_reserve(&chains.names, whole):
        return NULL
    row = <ListedChain *> (chains.rows.memory + chains.rows.length)
    memset(row, 0, sizeof(ListedChain))
    row.name_at = chains.names.length
    row.builtin = -1
    row.policy = NF_ACCEPT
    memset(chains.names.memory + chains.names.length, 0, whole)
    memcpy(chains.names.memory + chains.names.length, name, length)
    chains.names.length += whole
    chains.rows.length += sizeof(ListedChain)
    return row


cdef void _read_counters(const Attribute *nested, xt_counters *counters) noexcept nogil:
    cdef Attribute attribute
    attribute_scan(&attribute, nested.data, nested.length)
    while attribute_next(&attribute):
        if attribute.kind == NFTA_COUNTER_BYTES:
            counters.bcnt = attribute_be64(&attribute)
        elif attribute.kind == NFTA_COUNTER_PACKETS:
            counters.pcnt = attribute_be64(&attribute)


cdef struct ChainSeen:
    ListedChain row
    Attribute name
    Attribute kind
    bint ours
    bint hooked
    int hook
    int priority


cdef void _read_chain(const char *table, const Message *message, ChainSeen *seen) noexcept nogil:
    """Read the message of a chain into *seen*."""
    cdef Attribute attribute, inner
    memset(seen, 0, sizeof(seen[0]))
    seen.row.policy = NF_ACCEPT
    attribute_scan(&attribute, message.attributes, message.length)
    while attribute_next(&attribute):
        if attribute.kind == NFTA_CHAIN_TABLE:
            seen.ours = attribute_text(&attribute, table)
        elif attribute.kind == NFTA_CHAIN_NAME:
            seen.name = attribute
        elif attribute.kind == NFTA_CHAIN_TYPE:
            seen.kind = attribute
        elif attribute.kind == NFTA_CHAIN_HANDLE:
            seen.row.handle = attribute_be64(&attribute)
        elif attribute.kind == NFTA_CHAIN_USE:
            seen.row.use = attribute_be32(&attribute)
        elif attribute.kind == NFTA_CHAIN_POLICY:
            seen.row.policy = attribute_be32(&attribute)
        elif attribute.kind == NFTA_CHAIN_COUNTERS:
            _read_counters(&attribute, &seen.row.counters)
        elif attribute.kind == NFTA_CHAIN_HOOK:
            seen.hooked = True
            attribute_scan(&inner, attribute.data, attribute.length)
            while attribute_next(&inner):
                if inner.kind == NFTA_HOOK_HOOKNUM:
                    seen.hook = attribute_be32(&inner)
                elif inner.kind == NFTA_HOOK_PRIORITY:
                    seen.priority = <int32_t> attribute_be32(&inner)


cdef int _which_builtin(Ruleset *ruleset, const ChainSeen *seen) noexcept nogil:
    """Return the number of the builtin chain; -1 for a user chain; -2 for a base chain that iptables does not know."""
    cdef int i
    cdef Builtin *builtin
    for i in range(ruleset.builtin_count):
        builtin = &ruleset.builtins[i]
        if attribute_text(&seen.name, builtin.name):
            if (seen.hooked and seen.hook == builtin.hook and seen.priority == builtin.priority
                    and attribute_text(&seen.kind, builtin.kind)):
                return i
            return -2
    return -2 if seen.hooked else -1


cdef const char *_table_name(Ruleset *ruleset) noexcept nogil:
    return ruleset.filter.memory + 4


cdef struct ChainListing:
    Ruleset *ruleset
    ChainList *chains


cdef int _take_chain(void *context, const Message *message) noexcept nogil:
    cdef ChainListing *listing = <ChainListing *> context
    cdef ChainList *chains = listing.chains
    cdef ChainSeen seen
    cdef ListedChain *row
    cdef int which
    cdef size_t length
    if message.kind != NFT_MSG_NEWCHAIN:
        return 0
    _read_chain(_table_name(listing.ruleset), message, &seen)
    length = seen.name.length
    if not seen.ours or not length:
        return 0
    which = _which_builtin(listing.ruleset, &seen)
    if which == -2:
        return 0
    if which >= 0:
        row = &_rows(chains)[which]
        chains.doubled = chains.doubled or row.handle
        seen.row.name_at = row.name_at
    else:
        row = _add_row(chains, seen.name.data, length - (seen.name.data[length - 1] == 0))
        if row == NULL:
            return ENOMEM
        seen.row.name_at = row.name_at
    seen.row.builtin = which
    row[0] = seen.row
    return 0


cdef int _by_name(const void *one, const void *other) noexcept nogil:
    cdef const ListedChain *a = <const ListedChain *> one
    cdef const ListedChain *b = <const ListedChain *> other
    if a.builtin >= 0 or b.builtin >= 0:
        if a.builtin >= 0 and b.builtin >= 0:
            return a.builtin - b.builtin
        return -1 if a.builtin >= 0 else 1
    return strcmp(a.name, b.name)


cdef int _list_once(Channel *channel, Ruleset *ruleset, ChainList *chains) noexcept nogil:
    cdef bint interrupted
    cdef int failed, i
    cdef size_t j
    cdef ChainListing listing
    cdef ListedChain *row
    cdef Digest digest
    chains.rows.length = chains.names.length = 0
    chains.rows.failed = chains.names.failed = 0
    chains.doubled = False
    for i in range(ruleset.builtin_count):
        row = _add_row(chains, ruleset.builtins[i].name, strlen(ruleset.builtins[i].name))
        if row == NULL:
            return ENOMEM
        row.builtin = i
    listing.ruleset, listing.chains = ruleset, chains
    failed = channel_dump(channel, NFT_MSG_GETCHAIN, ruleset.nfproto, NULL, 0, _take_chain, &listing, &interrupted)
    if failed or interrupted:
        return failed or EINTR
    digest_begin(&digest, _row_count(chains))
    for j in range(_row_count(chains)):
        row = &_rows(chains)[j]
        row.name = chains.names.memory + row.name_at
    qsort(chains.rows.memory, _row_count(chains), sizeof(ListedChain), _by_name)
    for j in range(_row_count(chains)):
        row = &_rows(chains)[j]
        chains.doubled = chains.doubled or j and strcmp(row.name, _rows(chains)[j - 1].name) == 0
        digest_absorb(&digest, row.name, (strlen(row.name) + 4) & ~<size_t> 3)
        digest_absorb(&digest, <const char *> &row.handle, sizeof(row.handle))
        digest_absorb(&digest, <const char *> &row.policy, sizeof(row.policy))
    chains.digest = digest_finish(&digest)
    return 0


cdef int _list_chains(Channel *channel, Ruleset *ruleset, ChainList *chains) noexcept nogil:
    """List the chains of the table: builtin chains in the order of their hooks, also those that do not exist, then user
    chains by name. Return 0 or an errno; EINTR if a commit has interrupted it.

    A dump of several datagrams is repeated until two are equal. Chains that a batch has created and not yet committed,
    in any table, may make the kernel show chains twice or leave some out, and it does not say so.
    """
    cdef int _attempt, failed
    cdef uint64_t digest = 0
    cdef bint has_one = False
    for _attempt in range(ATTEMPTS):
        failed = _list_once(channel, ruleset, chains)
        if failed:
            return failed
        if chains.doubled:           # or a commit just ends, and chains of before are shown beside the new ones
            failed = channel_wait_for_commit(channel)
            if failed:
                return failed
        elif channel.parts <= 1 or has_one and chains.digest == digest:
            return 0
        else:
            has_one, digest = True, chains.digest
    return EAGAIN


cdef struct Look:
    Ruleset *ruleset
    ListedChain row


cdef int _take_one(void *context, const Message *message) noexcept nogil:
    """Store the message of the chain that was requested by name."""
    cdef Look *look = <Look *> context
    cdef ChainSeen seen
    if message.kind == NFT_MSG_NEWCHAIN:
        _read_chain(_table_name(look.ruleset), message, &seen)
        look.row = seen.row
        look.row.builtin = _which_builtin(look.ruleset, &seen)
    return 0


cdef int _ignore(void *context, const Message *message) noexcept nogil:
    return 0


cdef int _take_handle(void *context, const Message *message) noexcept nogil:
    """Take the handle of the table."""
    cdef Attribute attribute
    if message.kind == NFT_MSG_NEWTABLE:
        attribute_scan(&attribute, message.attributes, message.length)
        while attribute_next(&attribute):
            if attribute.kind == NFTA_TABLE_HANDLE:
                (<uint64_t *> context)[0] = attribute_be64(&attribute)
    return 0


cdef int _table_handle(Channel *channel, Ruleset *ruleset, uint64_t *handle) noexcept nogil:
    """Set *handle* to that of the table, 0 if there is none. Tables that are created later have other handles."""
    cdef int failed
    handle[0] = 0
    failed = channel_get(channel, NFT_MSG_GETTABLE, ruleset.nfproto, ruleset.filter.memory, ruleset.filter.length,
                         _take_handle, handle)
    return 0 if failed == ENOENT and channel.answered else failed


cdef int _take_policy(void *context, const Message *message) noexcept nogil:
    """Store what may have changed in a known chain."""
    cdef ChainSeen seen
    cdef ListedChain *row = <ListedChain *> context
    if message.kind != NFT_MSG_NEWCHAIN:
        return 0
    _read_chain(b"", message, &seen)
    row.policy, row.use = seen.row.policy, seen.row.use
    row.counters = seen.row.counters
    return 0


cdef int _ask_about(Lane *lane, const ListedChain *row, int kind) noexcept nogil:
    """Write the names of the table and of the chain into `lane.question`."""
    cdef Ruleset *ruleset = lane.ruleset
    lane.question.length = 0
    lane.question.failed = 0
    if not writer_reserve(&lane.question, ruleset.filter.length):
        return ENOMEM
    memcpy(lane.question.memory, ruleset.filter.memory, ruleset.filter.length)
    lane.question.length = ruleset.filter.length
    put_text(&lane.question, kind, row.name)
    return ENOMEM if lane.question.failed else 0


cdef int _read_policies(Lane *lane) noexcept nogil:
    """Read the counters of the policies of the known chains."""
    cdef int i, failed
    cdef ListedChain *row
    cdef Ruleset *ruleset = lane.ruleset
    for i in range(ruleset.builtin_count):
        row = &_rows(&ruleset.chains)[i]
        if row.handle:
            failed = _ask_about(lane, row, NFTA_CHAIN_NAME) or channel_get(
                lane.channel, NFT_MSG_GETCHAIN, ruleset.nfproto, lane.question.memory, lane.question.length,
                _take_policy, row)
            if failed:
                return failed
    return 0


# ------------------------------------------------------------------- rules

cdef void _absorb_expressions(Digest *digest, const Attribute *expressions, xt_counters *counters) noexcept nogil:
    """Add the content of a rule to *digest*, except numbers that packets change. Store its first counter in
    *counters*."""
    cdef Attribute element, part, inner
    cdef const char *from_here = expressions.data
    cdef const char *end = expressions.data + expressions.length
    cdef bint counted = False, is_counter, is_quota, is_last
    cdef uint32_t flags
    attribute_scan(&element, expressions.data, expressions.length)
    while attribute_next(&element):
        is_counter = is_quota = is_last = False
        attribute_scan(&part, element.data, element.length)
        while attribute_next(&part):
            if part.kind == NFTA_EXPR_NAME:
                is_counter = attribute_text(&part, b"counter")
                is_quota = attribute_text(&part, b"quota")
                is_last = attribute_text(&part, b"last")
            elif part.kind == NFTA_EXPR_DATA and (is_counter or is_last):
                digest_absorb(digest, from_here, part.data - from_here)
                from_here = part.data + part.length
                if is_counter and not counted:
                    counted = True
                    _read_counters(&part, counters)
            elif part.kind == NFTA_EXPR_DATA and is_quota:
                attribute_scan(&inner, part.data, part.length)
                while attribute_next(&inner):
                    if inner.kind == NFTA_QUOTA_CONSUMED or inner.kind == NFTA_QUOTA_FLAGS and inner.length == 4:
                        digest_absorb(digest, from_here, inner.data - from_here)
                        from_here = inner.data + inner.length
                        if inner.kind == NFTA_QUOTA_FLAGS:
                            # among them is whether it is used up
                            flags = attribute_be32(&inner) & ~<uint32_t> NFT_QUOTA_F_DEPLETED
                            digest_absorb(digest, <const char *> &flags, sizeof(flags))
    digest_absorb(digest, from_here, end - from_here)


cdef inline bint _add_rule(Lane *lane, uint64_t handle, uint64_t identity, uint64_t packets,
                           uint64_t size) noexcept nogil:
    """Append a rule with its counters. Return False if there is no memory for it."""
    if (not writer_reserve(&lane.packets, 8) or not writer_reserve(&lane.sizes, 8)
            or not writer_reserve(&lane.identities, 8) or not writer_reserve(&lane.handles, 8)):
        return False
    (<uint64_t *> (lane.packets.memory + lane.packets.length))[0] = packets
    (<uint64_t *> (lane.sizes.memory + lane.sizes.length))[0] = size
    (<uint64_t *> (lane.identities.memory + lane.identities.length))[0] = identity
    (<uint64_t *> (lane.handles.memory + lane.handles.length))[0] = handle
    lane.packets.length += 8
    lane.sizes.length += 8
    lane.identities.length += 8
    lane.handles.length += 8
    return True


cdef int _take_rule(void *context, const Message *message) noexcept nogil:
    cdef Lane *lane = <Lane *> context
    cdef Attribute attribute
    cdef xt_counters counters
    cdef Digest digest
    cdef uint64_t handle = 0, identity, previous = 0
    cdef size_t whole
    if message.kind != NFT_MSG_NEWRULE:
        return 0
    counters.pcnt = counters.bcnt = 0
    digest_begin(&digest, 0)
    attribute_scan(&attribute, message.attributes, message.length)
    while attribute_next(&attribute):
        if attribute.kind == NFTA_RULE_HANDLE:
            handle = attribute_be64(&attribute)
        elif attribute.kind == NFTA_RULE_EXPRESSIONS:
            _absorb_expressions(&digest, &attribute, &counters)
        elif attribute.kind == NFTA_RULE_USERDATA:
            digest_absorb(&digest, attribute.data, attribute.length)
        elif attribute.kind == NFTA_RULE_POSITION:
            previous = attribute_be64(&attribute)
    if previous != lane.previous:
        lane.has_gaps = True
    lane.previous = handle
    identity = digest_finish(&digest)
    lane.trail = (lane.trail ^ identity ^ handle) * 0x9e3779b97f4a7c15u + handle
    if not _add_rule(lane, handle, identity, counters.pcnt, counters.bcnt):
        return ENOMEM
    if lane.ruleset.keep:
        whole = (GENERAL_HEAD + message.length + 3) & ~<size_t> 3
        if not writer_reserve(&lane.kept, whole):
            return ENOMEM
        memset(lane.kept.memory + lane.kept.length + whole - 4, 0, 4)
        memcpy(lane.kept.memory + lane.kept.length, message.attributes - GENERAL_HEAD, GENERAL_HEAD + message.length)
        lane.kept.length += whole
    return 0


cdef int _read_use(Lane *lane, const ListedChain *row, uint32_t *use) noexcept nogil:
    """Set *use* to the number of the chain's rules and of jumps to it; 0 if there is no such chain."""
    cdef ListedChain now
    cdef int failed
    now.use = 0
    failed = _ask_about(lane, row, NFTA_CHAIN_NAME) or channel_get(
        lane.channel, NFT_MSG_GETCHAIN, lane.ruleset.nfproto, lane.question.memory, lane.question.length, _take_policy,
        &now)
    use[0] = now.use
    return 0 if failed == ENOENT and lane.channel.answered else failed


cdef int _read_rules(Lane *lane, ListedChain *row, size_t expected) noexcept nogil:
    """Read the rules of one chain at one moment. Return 0 or an errno; EINTR if the ruleset is unchanged, but the chain
    has not *expected* rules.

    If a commit to any table interrupts the dump, it is repeated. Two interrupted dumps that are equal are accepted too.
    The kernel does not notice a commit in the middle of a short dump. With `twice` there are always two.
    """
    cdef int _attempt, failed
    cdef bint interrupted, has_one = False
    cdef uint64_t trail = 0
    cdef size_t found
    cdef uint32_t use
    for _attempt in range(ATTEMPTS):
        failed = _ask_about(lane, row, NFTA_RULE_CHAIN)
        if failed:
            return failed
        lane.packets.length = lane.sizes.length = lane.identities.length = lane.handles.length = 8 * row.first
        lane.kept.length = row.message_first
        lane.trail, lane.previous, lane.has_gaps = 1, 0, False
        failed = channel_dump(lane.channel, NFT_MSG_GETRULE, lane.ruleset.nfproto, lane.question.memory,
                              lane.question.length, _take_rule, lane, &interrupted)
        if failed:
            return failed
        # Each datagram begins at the number of a rule. Rules that a batch has inserted and not yet committed are not
        # shown, but have numbers. If they come or go meanwhile, others are shown twice or left out, and the kernel does
        # not say so. But each rule names the one before it.
        if lane.has_gaps:
            continue
        if has_one and lane.trail == trail:
            return 0
        has_one, trail = True, lane.trail
        if interrupted or lane.ruleset.twice:
            continue
        found = lane.handles.length // 8 - row.first
        if lane.unchanged:
            return 0 if found == expected else EINTR
        if lane.channel.parts <= 1:
            return 0
        # the last rules may be left out; nothing jumps to a builtin chain
        failed = _read_use(lane, row, &use)
        if failed or use == (found if row.builtin >= 0 else row.use):
            return failed
    return EAGAIN


cdef bint _has_rules(const Lane *lane, const ListedChain *row) noexcept nogil:
    # `use` may already include rules of a batch that is not applied yet
    return row.end > row.first if lane.unchanged else row.handle != 0


cdef void *_read_lane(void *context) noexcept nogil:
    """Read the rules of all chains of the lane that have any."""
    cdef Lane *lane = <Lane *> context
    cdef size_t i, slot = 0, expected
    cdef ListedChain *row
    cdef bint has_rules
    lane.failed = 0
    lane.packets.length = lane.sizes.length = lane.identities.length = lane.handles.length = lane.kept.length = 0
    lane.packets.failed = lane.sizes.failed = lane.identities.failed = lane.handles.failed = lane.kept.failed = 0
    for i in range(lane.begin, lane.end):
        row = &_rows(&lane.ruleset.chains)[i]
        has_rules = _has_rules(lane, row)
        expected = row.end - row.first
        row.first = slot
        row.message_first = lane.kept.length
        if has_rules:
            lane.failed = _read_rules(lane, row, expected)
            if lane.failed:
                return NULL
            slot = lane.packets.length // 8
        row.end = slot
        row.message_end = lane.kept.length
    return NULL


cdef size_t _half(const Lane *lane) noexcept nogil:
    """Return how many chains the first of two lanes reads, so that both have equal work; all of them if there is little
    work."""
    cdef Ruleset *ruleset = lane.ruleset
    cdef size_t i, count = _row_count(&ruleset.chains), work = 0, done = 0
    for i in range(count):
        work += _work(lane, &_rows(&ruleset.chains)[i])
    if work < WORTH_TWO:
        return count
    for i in range(count):
        done += _work(lane, &_rows(&ruleset.chains)[i])
        if done * 2 >= work:
            return i + 1
    return count


cdef size_t _work(const Lane *lane, const ListedChain *row) noexcept nogil:
    """Return the cost of reading a chain, in rules. A dump costs as much as two rules."""
    if not _has_rules(lane, row):
        return 0
    return 2 + (row.end - row.first if lane.unchanged else row.use)


cdef bint _has_two_cores() noexcept nogil:
    cdef cpu_set_t cores
    # the call fails if the machine has more cores than the set
    return sched_getaffinity(0, sizeof(cores), &cores) != 0 or CPU_COUNT(&cores) > 1


cdef bint _join(Writer *first, const Writer *second) noexcept nogil:
    """Append the content of *second* to *first*."""
    if not writer_reserve(first, second.length):
        return False
    if second.length:
        memcpy(first.memory + first.length, second.memory, second.length)
    first.length += second.length
    return True


cdef int _read_all(Lane *lanes, bint unchanged) noexcept nogil:
    """Read the rules of all chains. If there are many, two threads read with a socket each: the kernel makes a dump on
    the core of the thread that requests it."""
    cdef Ruleset *ruleset = lanes[0].ruleset
    cdef size_t i, shift, count = _row_count(&ruleset.chains)
    cdef pthread_t thread
    cdef sigset_t every, usual
    cdef bint two
    lanes[0].unchanged = lanes[1].unchanged = unchanged
    lanes[0].begin, lanes[0].end, lanes[1].end = 0, _half(lanes), count
    two = lanes[0].end < count and _has_two_cores() and channel_beside(lanes[1].channel, lanes[0].channel)
    if two:
        lanes[1].begin = lanes[0].end
        # block all signals in the new thread: handlers must run in the program's own threads
        sigfillset(&every)
        pthread_sigmask(SIG_SETMASK, &every, &usual)
        two = pthread_create(&thread, NULL, _read_lane, &lanes[1]) == 0
        pthread_sigmask(SIG_SETMASK, &usual, NULL)
    if not two:
        lanes[0].end = count
    _read_lane(&lanes[0])
    if two:
        pthread_join(thread, NULL)
        shift = lanes[0].packets.length // 8
        for i in range(count):
            _rows(&ruleset.chains)[i].lane = i >= lanes[1].begin
            if i >= lanes[1].begin:
                _rows(&ruleset.chains)[i].first += shift
                _rows(&ruleset.chains)[i].end += shift
        if lanes[0].failed or lanes[1].failed:
            return lanes[0].failed or lanes[1].failed
        if (not _join(&lanes[0].packets, &lanes[1].packets) or not _join(&lanes[0].sizes, &lanes[1].sizes)
                or not _join(&lanes[0].identities, &lanes[1].identities)
                or not _join(&lanes[0].handles, &lanes[1].handles)):
            return ENOMEM
    else:
        for i in range(count):
            _rows(&ruleset.chains)[i].lane = 0
    return lanes[0].failed


# ------------------------------------------------------- what has changed

cdef int _follow_chain(Lane *lane, ListedChain *row, const uint64_t *handles, char *known, size_t count,
                       const HandleIndex *earlier, const uint64_t *identities) noexcept nogil:
    """Collect the rules of one chain: the *known* ones from the earlier reading, the others from the kernel.

    Return 0 or an errno. *known* is set to 0 for each rule that was read from the kernel.
    """
    cdef size_t i, at, slot
    cdef int failed
    row.first = slot = lane.handles.length // 8
    for i in range(count):
        at = handle_number(earlier, handles[i]) if known[i] else 0
        if at:
            # its counters are not known
            if not _add_rule(lane, handles[i], identities[at - 1], 0, 0):
                return ENOMEM
        else:
            known[i] = 0
            failed = _ask_about(lane, row, NFTA_RULE_CHAIN)
            if failed:
                return failed
            put_be64(&lane.question, NFTA_RULE_HANDLE, handles[i])
            if lane.question.failed:
                return ENOMEM
            failed = channel_get(lane.channel, NFT_MSG_GETRULE, lane.ruleset.nfproto, lane.question.memory,
                                 lane.question.length, _take_rule, lane)
            if failed:
                # the kernel says EPERM if a rule is longer than its answer can be: only a dump has room for it
                return EAGAIN if failed == EPERM else failed
        slot += 1
        if lane.handles.length != 8 * slot or (<uint64_t *> lane.handles.memory)[slot - 1] != handles[i]:
            return EAGAIN
    row.end = slot
    row.lane = 0
    return 0


cdef bint _is_odd(Ruleset *ruleset) noexcept nogil:
    """Whether a commit may just end: a chain was read without rules, although it has rules, or jumps to it."""
    cdef size_t i
    cdef const ListedChain *row
    for i in range(_row_count(&ruleset.chains)):
        row = &_rows(&ruleset.chains)[i]
        if row.use and row.first == row.end:
            return True
    return False


cdef int _read_table(Lane *lanes) noexcept nogil:
    """Read the whole table. Return 0 or an errno; EAGAIN if chains come and go each time."""
    cdef Ruleset *ruleset = lanes[0].ruleset
    cdef Channel *channel = lanes[0].channel
    cdef int attempt, failed
    cdef uint32_t before = 0, after = 0
    cdef uint32_t waited = 0         # the generation whose commit has ended; 0: none is known
    cdef uint64_t table = 0, table_after = 0
    cdef bint unchanged
    for attempt in range(ATTEMPTS):
        ruleset.twice = attempt >= PATIENCE
        if ruleset.twice:
            failed = _table_handle(channel, ruleset, &table)
            if failed:
                return failed
        failed = channel_generation(channel, &before)
        if failed:
            return failed
        unchanged = before == ruleset.generation and before != 0
        ruleset.generation = 0
        failed = _read_policies(lanes) if unchanged else _list_chains(channel, ruleset, &ruleset.chains)
        if not failed:
            failed = _read_all(lanes, unchanged)
        if failed == ENOENT or failed == EINTR:
            continue                 # a chain was deleted or created meanwhile
        if not failed:
            failed = channel_generation(channel, &after)
        if failed:
            return failed
        if before == after:
            if not unchanged and waited != after and _is_odd(ruleset):
                # the rules are read once more, after the end of the commit that made this generation
                failed = channel_wait_for_commit(channel)
                if failed:
                    return failed
                waited = after
                continue
            ruleset.generation = after
            return 0
        if attempt >= PATIENCE:
            # the handles of chains are compared too, and those of a table that was created again may be the same
            failed = _list_chains(channel, ruleset, &ruleset.again) or _table_handle(channel, ruleset, &table_after)
            if not failed and ruleset.again.digest == ruleset.chains.digest and table == table_after:
                return 0
            if failed and failed != EINTR:
                return failed
    return EAGAIN


# --------------------------------------------------------------- the reader

cdef class NftScan(Scan):
    """Reads the counters of a table again and again, with one socket and one set of buffers: it dumps each chain."""

    cdef readonly Socket socket
    cdef bint owns                   # whether it closes the socket
    cdef Ruleset ruleset
    cdef Lane lanes[2]
    cdef str table

    def __dealloc__(self):
        self._free_buffers()

    cdef void _free(self) noexcept:
        if self.socket is not None and self.owns:
            self.socket.close()
        self.socket = None
        self._free_buffers()

    cdef void _free_buffers(self) noexcept:
        cdef Ruleset *ruleset = &self.ruleset
        cdef Lane *lane
        cdef int i
        for i in range(2):
            lane = &self.lanes[i]
            free(lane.question.memory)
            free(lane.packets.memory)
            free(lane.sizes.memory)
            free(lane.identities.memory)
            free(lane.handles.memory)
            free(lane.kept.memory)
        free(ruleset.filter.memory)
        free(ruleset.chains.rows.memory)
        free(ruleset.chains.names.memory)
        free(ruleset.again.rows.memory)
        free(ruleset.again.names.memory)
        memset(self.lanes, 0, sizeof(self.lanes))
        memset(ruleset, 0, sizeof(ruleset[0]))
        self.digest = 0

    def __init__(self, int nfproto, str table not None, Socket socket=None, Namespace there=None):
        """Use *socket*, or open one in the network namespace *there*. Raises `NotFound` if iptables has no table
        *table*."""
        self._begin()
        try:
            self._prepare(nfproto, table)
            try:
                self.owns = socket is None
                self.socket = Socket(there) if socket is None else socket
                self.socket.generation()
            except KernelError as error:
                raise kernel_error(f"can't initialize {table}", error.errno, error.strerror, error.status) from None
            self.lanes[0].channel, self.lanes[1].channel = &self.socket.channel, &self.socket.beside
        finally:
            self._end()

    cdef int _prepare(self, int nfproto, str table) except -1:
        """Set up the builtin chains of the table, as iptables defines them."""
        cdef Builtin *builtin
        cdef bytes label = c_text(table, "a table name")
        self._free_buffers()
        family_of(nfproto)
        self.table = table
        if table not in BUILTIN_CHAINS:
            raise kernel_error(f"can't initialize {table}", ENOENT, "Table does not exist (do you need to insmod?)")
        self.ruleset.nfproto = nfproto
        put_text(&self.ruleset.filter, NFTA_CHAIN_TABLE, PyBytes_AS_STRING(label))
        if self.ruleset.filter.failed:
            raise MemoryError
        for hook, kind, priority in BUILTIN_CHAINS[table]:
            builtin = &self.ruleset.builtins[self.ruleset.builtin_count]
            self.ruleset.builtin_count += 1
            builtin.hook, builtin.priority = hook, priority
            _set_text(builtin.name, HOOKS[hook].encode(), sizeof(builtin.name))
            _set_text(builtin.kind, kind.encode(), sizeof(builtin.kind))
        self.lanes[0].ruleset = self.lanes[1].ruleset = &self.ruleset
        return 0

    @property
    def closed(self):
        """Whether the reader was closed."""
        return self.socket is None or self.socket.closed or self.to_close

    cdef int _check_open(self) except -1:
        if self.socket is None or not channel_is_ours(&self.socket.channel):
            raise KernelError("this reader is closed", EBADF, "Bad file descriptor")
        return 0

    cdef int _load(self, bint keep) except -1:
        """Read the whole table. *keep*: also keep the messages of the rules."""
        cdef int failed
        cdef uint64_t before = self.digest
        self._check_open()
        self.digest = 0
        self.ruleset.keep = keep
        with nogil:
            failed = _read_table(self.lanes)
        if failed:
            self.chains = None
            self.socket._check(failed, f"can't read {self.table}")
        self.digest = self._measure()
        if self.digest != before or self.chains is None:
            self._describe()
        return 0

    cdef uint64_t _measure(self) noexcept:
        """Return the digest of chains, policies and rules, without counters."""
        cdef Digest digest
        cdef ListedChain *row
        cdef size_t i
        digest_begin(&digest, self.lanes[0].identities.length)
        for i in range(_row_count(&self.ruleset.chains)):
            row = &_rows(&self.ruleset.chains)[i]
            digest_absorb(&digest, row.name, (strlen(row.name) + 4) & ~<size_t> 3)
            digest_absorb(&digest, <const char *> &row.policy, sizeof(row.policy))
            digest_absorb(&digest, <const char *> &row.end, sizeof(row.end))     # names and rules may be in any order
        digest_absorb(&digest, self.lanes[0].identities.memory, self.lanes[0].identities.length)
        return digest_finish(&digest)

    cdef int _describe(self) except -1:
        """Set `chains` and `identities`. This is done once for each ruleset."""
        cdef list chains = []
        for name, policy, _, first, end in self._chain_rows():
            chains.append((name, policy, first, end))
        self.chains = tuple(chains)
        self.identities = PyBytes_FromStringAndSize(self.lanes[0].identities.memory, self.lanes[0].identities.length)
        return 0

    cdef list _chain_rows(self):
        """Return [(name, policy or None, (packets, bytes) or None, first slot, end slot)]."""
        cdef list rows = []
        cdef ListedChain *row
        cdef size_t i
        for i in range(_row_count(&self.ruleset.chains)):
            row = &_rows(&self.ruleset.chains)[i]
            if row.builtin < 0:
                rows.append((os_decode(row.name), None, None, row.first, row.end))
            else:
                rows.append((os_decode(row.name), "DROP" if row.policy == NF_DROP else "ACCEPT",
                             (row.counters.pcnt, row.counters.bcnt), row.first, row.end))
        return rows

    cdef tuple _read(self):
        self._load(False)
        return self._taken()

    cdef tuple _taken(self):
        """Return what was read, in the form that `read` returns."""
        cdef Counts counts = Counts.__new__(Counts)
        cdef size_t size
        cdef int i
        cdef list policies = []
        cdef ListedChain *row
        size = self.lanes[0].packets.length
        counts._allocate(size // 8)
        if size:
            memcpy(counts.packet_row, self.lanes[0].packets.memory, size)
            memcpy(counts.byte_row, self.lanes[0].sizes.memory, size)
        for i in range(self.ruleset.builtin_count):
            row = &_rows(&self.ruleset.chains)[i]
            policies.append((row.counters.pcnt, row.counters.bcnt))
        return counts, self.digest, policies

    def outline(self):
        """Return (generation, [(chain, handle, first slot, end slot, policy or -1)…], handles of the rules) of the last
        reading.

        The generation is 0 if the reading is not of a single generation. The handle of a chain is 0 if the chain does
        not exist. The handles of the rules are bytes: one uint64 for each slot.
        """
        cdef list rows = []
        cdef ListedChain *row
        cdef size_t i
        for i in range(_row_count(&self.ruleset.chains)):
            row = &_rows(&self.ruleset.chains)[i]
            rows.append((<bytes> row.name, row.handle, row.first, row.end, row.policy if row.builtin >= 0 else -1))
        return (self.ruleset.generation, rows,
                PyBytes_FromStringAndSize(self.lanes[0].handles.memory, self.lanes[0].handles.length))

    def follow(self, uint32_t generation, dict chains not None, bytes handles not None, bytearray known not None):
        """Read only the rules that have changed since the last reading. The caller knows which rules exist now.

        *chains*: {handle: (name, first, end, policy or -1)}. *handles*: one uint64 for each rule. *known*: one byte for
        each rule, 0 if the rule must be read from the kernel. It is set to 0 for all rules that were read. Return what
        `read` returns, with counters of 0 for the other rules. Return None if the whole table must be read.
        """
        self._begin()
        try:
            return self._follow(generation, chains, handles, known)
        finally:
            self._end()

    cdef tuple _follow(self, uint32_t generation, dict chains, bytes handles, bytearray known):
        cdef Lane *lane = &self.lanes[0]
        cdef HandleIndex earlier
        cdef const uint64_t *identities
        cdef ListedChain *row
        cdef const uint64_t *handle = <const uint64_t *> PyBytes_AS_STRING(handles)
        cdef char *marks = known
        cdef uint32_t now = 0
        cdef uint64_t before = self.digest
        cdef size_t i, first, count, taken = 0
        cdef int failed
        cdef dict names = {}
        cdef bytes its_handles, its_identities
        self._check_open()
        if not before or self.chains is None or len(known) * 8 != PyBytes_GET_SIZE(handles):
            return None
        for i in range(_row_count(&self.ruleset.chains)):
            row = &_rows(&self.ruleset.chains)[i]
            names[row.handle] = <bytes> row.name
        its_handles = PyBytes_FromStringAndSize(lane.handles.memory, lane.handles.length)
        its_identities = PyBytes_FromStringAndSize(lane.identities.memory, lane.identities.length)
        identities = <const uint64_t *> PyBytes_AS_STRING(its_identities)
        # if this does not reach its end, a later reading must not be compared with it
        self.digest, self.ruleset.generation, self.ruleset.keep = 0, 0, False
        earlier.places = NULL
        failed = handle_index(&earlier, PyBytes_AS_STRING(its_handles), 8, PyBytes_GET_SIZE(its_handles) // 8)
        try:
            lane.packets.length = lane.sizes.length = lane.identities.length = lane.handles.length = 0
            if not failed:
                with nogil:
                    failed = channel_generation(lane.channel, &now)
                    if not failed and now == generation:
                        failed = _list_chains(lane.channel, &self.ruleset, &self.ruleset.chains)
            for i in range(_row_count(&self.ruleset.chains) if not failed and now == generation else 0):
                row = &_rows(&self.ruleset.chains)[i]
                row.first = row.end = lane.handles.length // 8
                if not row.handle:
                    continue
                name, first, count, policy = chains.get(row.handle, (None, 0, 0, -1))
                if (name != <bytes> row.name or row.builtin >= 0 and policy != row.policy
                        or names.get(row.handle, name) != name or not first <= count <= <size_t> len(known)):
                    # the chain has another name, so rules that jump to it have another text
                    return None
                count -= first
                taken += count
                with nogil:
                    failed = _follow_chain(lane, row, handle + first, marks + first, count, &earlier, identities)
                if failed:
                    break
        finally:
            free(earlier.places)
        if not failed and now == generation:
            with nogil:
                failed = channel_generation(lane.channel, &now)
        if failed in (ENOENT, EINTR, EAGAIN) or not failed and (now != generation or taken != <size_t> len(known)):
            return None
        self.socket._check(failed, f"can't read {self.table}")
        self.ruleset.generation = generation
        self.digest = self._measure()
        if self.digest != before:
            self._describe()
        return self._taken()

    def fileno(self):
        """Return the descriptor of the socket. -1: it was closed, by this process perhaps with all its descriptors."""
        return -1 if self.closed or not channel_is_ours(&self.socket.channel) else self.socket.channel.held.fd

    def read_messages(self):
        """Return [(chain, policy or None, (packets, bytes) or None, messages of its rules as bytes)]."""
        self._begin()
        try:
            return self._messages()
        finally:
            self._end()

    cdef _messages(self):
        cdef list found = []
        cdef ListedChain *row
        cdef size_t i
        self._load(True)
        for i, (name, policy, counters, _, _) in enumerate(self._chain_rows()):
            row = &_rows(&self.ruleset.chains)[i]
            found.append((name, policy, counters, PyBytes_FromStringAndSize(
                self.lanes[row.lane].kept.memory + row.message_first, row.message_end - row.message_first)))
        return found

    cdef list _entries(self, uint64_t digest):
        cdef list found = self._messages()
        cdef list entries = []
        from .codec import decode_rules     # imported here: a program that only reads counters need not load it

        if self.digest != digest:
            raise Conflict("the rules of this snapshot were not looked at before the ruleset changed")
        for _, _, _, messages in found:
            for _, entry in decode_rules(self.ruleset.nfproto, messages, self.socket):
                entries.append(entry)
        return entries

    def list_chains(self):
        """Return [(chain, policy or None, (packets, bytes) or None, handle, use)].

        *use* is the number of its rules and of jumps to it. A builtin chain that does not exist has the handle 0.
        """
        self._begin()
        try:
            return self._list_chains()
        finally:
            self._end()

    cdef _list_chains(self):
        cdef int failed, _attempt
        cdef size_t i
        cdef ListedChain *row
        cdef list found = []
        self._check_open()
        with nogil:
            self.ruleset.generation = 0
            for _attempt in range(ATTEMPTS):
                failed = _list_chains(&self.socket.channel, &self.ruleset, &self.ruleset.chains)
                if failed != EINTR:
                    break
        self.socket._check(EAGAIN if failed == EINTR else failed, f"can't read {self.table}")
        for i, (name, policy, counters, first, end) in enumerate(self._chain_rows()):
            row = &_rows(&self.ruleset.chains)[i]
            found.append((name, policy, counters, row.handle, row.use))
        return found

    def is_there(self):
        """Whether the table exists, with or without chains."""
        cdef int failed
        with nogil:
            failed = channel_get(&self.socket.channel, NFT_MSG_GETTABLE, self.ruleset.nfproto,
                                 self.ruleset.filter.memory,
                                 self.ruleset.filter.length, _ignore, NULL)
        if failed == ENOENT and self.socket.channel.answered:
            return False
        self.socket._check(failed, f"can't read {self.table}")
        return True

    def find_chain(self, bytes chain not None):
        """Return (policy or None, handle) of one chain, or None if it does not exist.

        Raises `KernelError` if a chain with the name of a builtin chain has another hook, type or priority.
        """
        self._begin()
        try:
            return self._find_chain(chain)
        finally:
            self._end()

    cdef _find_chain(self, bytes chain):
        cdef Look found
        cdef ListedChain row
        cdef int failed
        self._check_open()
        memset(&row, 0, sizeof(row))
        memset(&found, 0, sizeof(found))
        row.name = PyBytes_AS_STRING(chain)
        found.ruleset = &self.ruleset
        failed = _ask_about(self.lanes, &row, NFTA_CHAIN_NAME)
        if not failed:
            with nogil:
                failed = channel_get(&self.socket.channel, NFT_MSG_GETCHAIN, self.ruleset.nfproto,
                                     self.lanes[0].question.memory, self.lanes[0].question.length, _take_one, &found)
        if failed == ENOENT and self.socket.channel.answered:
            return None
        self.socket._check(failed, f"can't read {self.table}")
        if found.row.builtin == -2:
            raise KernelError(f"table `{self.table}' is incompatible, use 'nft' tool.", EINVAL, "Invalid argument")
        if found.row.builtin == -1:
            return None, found.row.handle
        return "DROP" if found.row.policy == NF_DROP else "ACCEPT", found.row.handle

    def chain_rules(self, bytes chain not None):
        """Return (messages of the rules of one chain, their handles). Raises `NotFound` if the chain does not exist."""
        self._begin()
        try:
            return self._chain_rules(chain)
        finally:
            self._end()

    cdef _chain_rules(self, bytes chain):
        cdef ListedChain row
        cdef int failed
        cdef list handles = []
        cdef bytes messages
        cdef Message message
        cdef Attribute attribute
        memset(&row, 0, sizeof(row))
        row.name = PyBytes_AS_STRING(chain)
        row.builtin = -1
        self._check_open()
        self.ruleset.keep = True
        self.ruleset.generation = 0
        self.lanes[0].unchanged = False
        with nogil:
            failed = _read_use(self.lanes, &row, &row.use) or _read_rules(self.lanes, &row, 0)
        self.socket._check(failed, f"can't read {self.table}")
        messages = PyBytes_FromStringAndSize(self.lanes[0].kept.memory, self.lanes[0].kept.length)
        message_scan(&message, PyBytes_AS_STRING(messages), PyBytes_GET_SIZE(messages))
        while message_next(&message):
            attribute_scan(&attribute, message.attributes, message.length)
            while attribute_next(&attribute):
                if attribute.kind == NFTA_RULE_HANDLE:
                    handles.append(attribute_be64(&attribute))
                    break
        return messages, handles


cdef int _set_text(char *room, bytes text, size_t size) except -1:
    """Copy *text*, which must be shorter than *size*, to *room*."""
    memset(room, 0, size)
    memcpy(room, PyBytes_AS_STRING(text), min(<size_t> PyBytes_GET_SIZE(text), size - 1))
    return 0
