/*
 * control.h
 *	  The thread that keeps the route table and the readiness up to date.
 */
#ifndef GW_CONTROL_H
#define GW_CONTROL_H

#include "gateway.h"

struct GwControl;

struct GwControl *gw_control_start(struct GwGateway *gateway) __attribute__((warn_unused_result));
void gw_control_reload(struct GwControl *control);
void gw_control_stop(struct GwControl *control);

#endif
