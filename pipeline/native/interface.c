/* Tells which interface this library was built with, so that one of older sources is not called wrongly. */
#include "native.h"

TARMAC_EXPORT int tarmac_interface(void);

int tarmac_interface(void) { return TARMAC_INTERFACE; }
