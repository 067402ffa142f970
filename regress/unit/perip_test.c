/*
 * perip: which addresses are counted, as one or apart, and up to how many.
 */
#include "perip.h"

#include <netinet/in.h>
#include <sys/un.h>

#include "tap.h"

static struct GwPerIp table;

static bool
add(const char *text, unsigned limit)
{
	struct GwPerIpKey key;

	return gw_perip_key_of_text(&key, text) && gw_perip_add(&table, &key, limit);
}

static void
remove_one(const char *text)
{
	struct GwPerIpKey key;

	if (gw_perip_key_of_text(&key, text))
		gw_perip_remove(&table, &key);
}

static void
test_keys(void)
{
	static const char *const free_ones[] = {"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"};
	static const char *const limited[] = {"192.0.2.1", "128.0.0.1", "::ffff:192.0.2.1", "2001:db8::1", "::2"};
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	struct GwPerIpKey key, other;

	for (size_t i = 0; i < sizeof(free_ones) / sizeof(free_ones[0]); i++)
		ok(!gw_perip_key_of_text(&key, free_ones[i]), "%s is never limited", free_ones[i]);
	for (size_t i = 0; i < sizeof(limited) / sizeof(limited[0]); i++)
		ok(gw_perip_key_of_text(&key, limited[i]), "%s is limited", limited[i]);
	ok(!gw_perip_key(&key, (struct sockaddr *) (void *) &local), "nor is what has no address");
	ok(gw_perip_key_of_text(&key, "192.0.2.1") && gw_perip_key_of_text(&other, "::ffff:192.0.2.1") && memcmp(&key, &other, sizeof(key)) == 0,
	   "an IPv4 address is the same however it came");
	ok(gw_perip_key_of_text(&key, "2001:db8:0:1::1") && gw_perip_key_of_text(&other, "2001:db8:0:1:ffff::2") && memcmp(&key, &other, sizeof(key)) == 0,
	   "a network of 64 bits is one");
	ok(gw_perip_key_of_text(&other, "2001:db8:0:2::1") && memcmp(&key, &other, sizeof(key)) != 0, "the next is another");
}

static void
test_counts(void)
{
	ok(add("192.0.2.1", 2) && add("192.0.2.1", 2), "as many as the limit says");
	ok(!add("192.0.2.1", 2), "and no more");
	ok(add("192.0.2.2", 2), "which concerns no other address");
	remove_one("192.0.2.1");
	ok(add("192.0.2.1", 2), "one that has left makes room");
	ok(!add("192.0.2.1", 2), "for one");
	remove_one("192.0.2.1");
	remove_one("192.0.2.1");
	ok(add("192.0.2.1", 1), "an address of which all have left begins anew");
}

/* More addresses than there are buckets, so that they share them. */
static void
test_many(void)
{
	char text[INET_ADDRSTRLEN];
	int added = 0, refused = 0, again = 0;

	for (int i = 0; i < 4 * GW_PERIP_BUCKETS; i++)
	{
		snprintf(text, sizeof(text), "10.%d.%d.1", i >> 8, i & 255);
		added += add(text, 1);
		refused += !add(text, 1);
	}
	for (int i = 0; i < 4 * GW_PERIP_BUCKETS; i += 2)
	{
		snprintf(text, sizeof(text), "10.%d.%d.1", i >> 8, i & 255);
		remove_one(text);
	}
	for (int i = 0; i < 4 * GW_PERIP_BUCKETS; i++)
	{
		snprintf(text, sizeof(text), "10.%d.%d.1", i >> 8, i & 255);
		again += add(text, 1);
	}
	is_number(added, 4 * GW_PERIP_BUCKETS, "each of many addresses is counted");
	is_number(refused, 4 * GW_PERIP_BUCKETS, "by itself");
	is_number(again, 2 * GW_PERIP_BUCKETS, "and it is those that have left who may come again");
}

int
main(void)
{
	gw_perip_open(&table);
	test_keys();
	test_counts();
	test_many();
	gw_perip_close(&table);
	return done();
}
