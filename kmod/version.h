/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one version of module and collection: galaxy.yml and dkms.conf carry
 * the same literal, which a unit test checks.
 */
#ifndef _BW_VERSION_H
#define _BW_VERSION_H

#define BW_VERSION "0.1.0"

#endif /* _BW_VERSION_H */
