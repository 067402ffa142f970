/*
 * gateway.c
 *	  What all threads of the process share: the database's state.
 */
#include "gateway.h"

void
gw_gateway_reason(struct GwGateway *gateway, char reason[GW_REASON_SIZE])
{
	pthread_mutex_lock(&gateway->reason_lock);
	snprintf(reason, GW_REASON_SIZE, "%s", gateway->reason);
	pthread_mutex_unlock(&gateway->reason_lock);
}

bool
gw_gateway_set_state(struct GwGateway *gateway, const char *reason)
{
	bool is_news;

	pthread_mutex_lock(&gateway->reason_lock);
	is_news = strcmp(gateway->reason, reason != NULL ? reason : "") != 0;
	snprintf(gateway->reason, GW_REASON_SIZE, "%s", reason != NULL ? reason : "");
	atomic_store(&gateway->is_ready, reason == NULL);
	pthread_mutex_unlock(&gateway->reason_lock);
	return is_news;
}
