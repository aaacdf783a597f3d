/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's references to itself: hold (no unloading while links are guarded,
 * until root says otherwise) and seal (no change and no unloading until reboot).
 */
#ifndef _BW_LIFETIME_H
#define _BW_LIFETIME_H

#include "draft.h"

/* Sets the parameter; takes or gives back the reference. Context: process. */
BW_API void bw_hold_set(bool hold);
BW_API bool bw_hold_get(void);
/* After a state was put in force. Context: bw_mutex is held. */
BW_API void bw_hold_update(void);

/*
 * bw_seal_set(): 0, or -ENODEV, the module is being unloaded. bw_seal_check(): 0,
 * or -EPERM, it is sealed. Both fill the fault in. Context: bw_mutex is held.
 */
BW_API int bw_seal_set(struct bw_fault *f);
BW_API bool bw_sealed(void);
BW_API int bw_seal_check(struct bw_fault *f);

#endif /* _BW_LIFETIME_H */
