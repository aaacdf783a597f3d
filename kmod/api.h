/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Linkage of what one file offers to the others. The module is one object
 * (build.c), so nothing in it needs to be global; in user space the pure files
 * are linked as objects of their own (tests/).
 */
#ifndef _BW_API_H
#define _BW_API_H

#ifdef BW_ONE_OBJECT
#define BW_API	static	/* declaration of a function or an object */
#define BW_DATA	static	/* definition of an object */
#else
#define BW_API	extern
#define BW_DATA
#endif

#endif /* _BW_API_H */
