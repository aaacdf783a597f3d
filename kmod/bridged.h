/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What crosses a guarded bridge, seen at the bridge itself: the place that no
 * bridge setting and no container's namespace can take away.
 */
#ifndef _BW_BRIDGED_H
#define _BW_BRIDGED_H

#include "api.h"
#include "state.h"

/*
 * The hooks are there while a state guards links: registered before such a state
 * is published, and gone when neither the state nor what a roll back would
 * restore needs them. bw_bridged_add_needed() returns 0 or the error of the
 * registration, which may want memory. Context: process; bw_mutex is held.
 */
BW_API int bw_bridged_add_needed(const struct bw_state *st);
BW_API void bw_bridged_drop_unneeded(const struct bw_state *st, const struct bw_state *saved);
/* No packet is in a hook any more when it returns. Context: process. */
BW_API void bw_bridged_exit(void);

#endif /* _BW_BRIDGED_H */
