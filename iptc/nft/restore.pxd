# Nothing of this module is for C.
