/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What crosses a guarded bridge from port to port, seen at the bridge itself: the
 * place that no bridge setting and no container's namespace can take away.
 */
#ifndef _BW_BRIDGED_H
#define _BW_BRIDGED_H

#include "api.h"
#include "state.h"

/*
 * The hook is there while a state needs it: before one that is closed, and gone
 * when neither the state nor what a roll back would restore is. Opening may fail
 * for want of memory. Context: process; bw_mutex for bw_bridged_drop_unneeded().
 */
BW_API int bw_bridged_add(void);
BW_API void bw_bridged_drop_unneeded(const struct bw_state *st, const struct bw_state *saved);
/* No packet is in the hook any more when it returns. */
BW_API void bw_bridged_exit(void);

#endif /* _BW_BRIDGED_H */
