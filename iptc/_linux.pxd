# Linux and its C library, except netfilter, as C declares them: once, for all compiled modules.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

# ------------------------------------------------------------ text, numbers

cdef extern from * nogil:
    """
    #include <ctype.h>
    #include <endian.h>
    #include <errno.h>
    #include <stdlib.h>
    #include <string.h>
    #include <arpa/inet.h>
    """
    ctypedef unsigned int socklen_t
    int errno_now "errno"
    size_t strnlen(const char *text, size_t limit)
    char *strtok_r(char *text, const char *delimiters, char **rest)
    long strtol(const char *text, char **end, int base)
    unsigned long long strtoull(const char *text, char **end, int base)
    int isspace(int c)
    int tolower(int c)
    uint16_t htons(uint16_t number)
    uint32_t htobe32(uint32_t number)
    uint64_t htobe64(uint64_t number)
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

# ------------------------------------------------------- sockets, descriptors

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <net/if.h>
    #include <netinet/in.h>
    #include <sys/file.h>
    #include <sys/inotify.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <linux/sockios.h>
    #ifndef SIOCGSKNS
    #define SIOCGSKNS 0x894C            /* headers before Linux 4.10 do not have it */
    #endif
    #ifndef SO_NETNS_COOKIE
    #define SO_NETNS_COOKIE 71          /* headers before Linux 5.14 do not have it */
    #endif
    """
    enum:
        AF_INET
        AF_INET6
        AF_NETLINK
        AF_UNIX
        F_DUPFD_CLOEXEC
        IFNAMSIZ
        IPPROTO_IP
        IPPROTO_IPV6
        IPPROTO_RAW
        LOCK_EX
        LOCK_NB
        LOCK_SH
        LOCK_UN
        MSG_DONTWAIT
        SIOCGIFNAME
        SIOCGSKNS
        SOCK_CLOEXEC
        SOCK_DGRAM
        SOCK_RAW
        SOL_SOCKET
        SO_NETNS_COOKIE
        SO_RCVBUF
        SO_RCVBUFFORCE
        SO_SNDBUF
        SO_SNDBUFFORCE
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    struct ifreq:
        char ifr_name[16]
        int ifr_ifindex
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    int socket(int domain, int kind, int protocol)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    int fcntl(int fd, int command, ...)
    int flock(int fd, int operation)
    struct inotify_event:
        int wd
        uint32_t mask
        uint32_t len
        char *name
    enum:
        IN_CLOEXEC
        IN_NONBLOCK
        IN_OPEN
        IN_CLOSE_WRITE
        IN_CLOSE_NOWRITE
        IN_CREATE
        IN_MOVED_TO
        IN_DELETE_SELF
        IN_MOVE_SELF
        IN_Q_OVERFLOW
    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, uint32_t mask)
    int ioctl(int fd, unsigned long request, ...)
    char *if_indextoname(unsigned int index, char *name)

# ------------------------------------------------------------------- netlink

cdef extern from * nogil:
    """
    #include <linux/netlink.h>
    #include <linux/netfilter/nfnetlink.h>
    """
    enum:
        NETLINK_CAP_ACK
        NETLINK_EXT_ACK
        NETLINK_NETFILTER
        NFNETLINK_V0
        SOL_NETLINK
    struct nlmsghdr:
        uint32_t nlmsg_len
        uint16_t nlmsg_type
        uint16_t nlmsg_flags
        uint32_t nlmsg_seq
        uint32_t nlmsg_pid
    struct nfgenmsg:
        uint8_t nfgen_family
        uint8_t version
        uint16_t res_id
    struct nlattr:
        uint16_t nla_len
        uint16_t nla_type

# ------------------------------------------------------- threads, namespaces

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    """
    enum:
        CLONE_NEWNET
        SIG_SETMASK
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    ctypedef struct sigset_t:
        pass
    ctypedef struct cpu_set_t:
        pass
    int pthread_attr_init(pthread_attr_t *attributes)
    int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size)
    int pthread_attr_destroy(pthread_attr_t *attributes)
    int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *) noexcept nogil,
                       void *context)
    int pthread_join(pthread_t thread, void **answer)
    int pthread_sigmask(int how, const sigset_t *mask, sigset_t *before)
    int sigfillset(sigset_t *mask)
    int sched_getaffinity(int pid, size_t size, cpu_set_t *cores)
    int CPU_COUNT(const cpu_set_t *cores)
    int setns(int fd, int kind)
