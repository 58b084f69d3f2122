# Polls that only read counters. See quick.pyx.

cdef class QuickPoller:
    cdef type sample                 # the class of samples
    cdef type snapshot               # the class of snapshots
    cdef readonly dict _last         # {(ipv6, table): its snapshot at the last poll}
    cdef public double _time         # when the last poll was
    cdef list steady                 # [(key or None, reader, source)]. None: a poll has to look at everything
    cdef double until                # when everything has to be looked at again
    cdef size_t polls                # how many quick polls there were

    cdef object poll_quickly(self)
