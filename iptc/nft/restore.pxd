# This module gives nothing to C.
