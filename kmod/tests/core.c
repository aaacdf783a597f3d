// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the pure core (table, classifier, ruleset): worked examples, every
 * refusal, allocation failures, a randomized comparison with the naive twin,
 * and drafts damaged at random. Prints TAP; --junit FILE writes JUnit too.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "naive.h"

#define TCP(port)	bw_service(6, port)
#define DNS		bw_service(17, 53)
#define NONE		BW_RULE_NONE

static const char *failed;
static char failure[300];

#define CHECK(cond) do {						\
	if (!(cond) && !failed) {					\
		snprintf(failure, sizeof(failure), "%s:%d: %s",		\
			 __FILE__, __LINE__, #cond);			\
		failed = failure;					\
	}								\
} while (0)

struct built {
	struct bw_rules *r;
	struct bw_endpoints *e;
	struct bw_fault f;
};

static bool build(struct built *b, const struct test_draft *t)
{
	memset(b, 0, sizeof(*b));
	if (bw_draft_check(&t->d, &b->f))
		return false;
	b->r = bw_rules_build(&t->d, &b->f);
	b->e = b->r ? bw_endpoints_build(&t->d, &b->f) : NULL;
	return b->e;
}

static void demolish(struct built *b)
{
	bw_rules_free(b->r);
	bw_endpoints_free(b->e);
	b->r = NULL;
	b->e = NULL;
}

/*
 * A fleet host in small: web (3) and db (4) on link 10, app (5) on link 20, the
 * office (6) is 10.10.0.0/16; port 7 of link 10 is web's, 8 is db's.
 */
static void example(struct test_draft *t)
{
	test_minimal(t);
	memcpy(t->d.defaults, (u8[]){ 1, 0, 1, 1, 0, 0 }, 6);
	test_identity(t, 3, 3);
	test_identity(t, 4, 4);
	test_identity(t, 5, 5);
	test_identity(t, 6, 6);
	test_cell4(t, "0.0.0.0", BW_ID_WORLD, BW_ID_HOST);
	test_cell4(t, "10.10.0.0", 6, BW_ID_HOST);
	test_cell4(t, "10.11.0.0", BW_ID_WORLD, BW_ID_HOST);
	test_cell6(t, "::", BW_ID_WORLD, BW_ID_HOST);
	test_cell6(t, "2001:db8:10::", 6, BW_ID_HOST);
	test_cell6(t, "2001:db8:11::", BW_ID_WORLD, BW_ID_HOST);
	test_endpoint4(t, "172.18.0.2", 3, 10, 7);
	test_endpoint4(t, "172.18.0.3", 4, 10, 8);
	test_endpoint4(t, "172.19.0.2", 5, 20, 0);
	test_endpoint6(t, "fd00::2", 3, 10, 7);
	test_endpoint6(t, "fd00::3", 4, 10, 8);
	test_publish(t, "0.0.0.0", 6, 8443, "172.18.0.2", 443);
	test_publish(t, "192.0.2.1", 6, 8443, "172.18.0.3", 444);
	test_publish(t, "::", 6, 8443, "172.18.0.2", 443);
	test_rule(t, 100, BW_ACTION_ALLOW, 0);
	test_rule(t, 101, BW_ACTION_REJECT, BW_RULE_F_LOG);
	test_span(t, TCP(0), TCP(5431), 1, 1);
	test_span(t, TCP(5432), TCP(5432), 0, NONE);
	test_span(t, TCP(443), TCP(443), 0, 0);
	test_block(t, 0, 2);
	test_block(t, 2, 1);
	test_block(t, 3, 0);
	test_pair(t, 3, 4, 0);	/* web -> db */
	test_pair(t, 6, 3, 1);	/* office -> web */
	test_pair(t, 6, 4, 0);	/* office -> db */
	test_pair(t, 5, 3, 2);	/* app -> web: an empty block */
}

struct question {
	const char *from;
	u8 from_kind;
	u32 from_link, from_port;
	const char *to;
	u8 to_kind;
	u32 to_link, to_port;
	u32 service;
	u8 sender, flags;
};

static struct bw_decision ask(const struct built *b, struct question x)
{
	struct bw_query q = { .service = x.service, .sender = x.sender, .flags = x.flags };
	struct bw_decision d;

	test_party(&q.side[0], x.from, x.from_kind, x.from_link, x.from_port);
	test_party(&q.side[1], x.to, x.to_kind, x.to_link, x.to_port);
	bw_classify(b->r, b->e, &q, &d);
	return d;
}

#define ASK(...) ask(&b, (struct question){ __VA_ARGS__ })

#define G BW_KIND_GUARDED
#define W BW_KIND_WORLD
#define H BW_KIND_HOST

static void test_example(void)
{
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	example(&t);
	CHECK(build(&b, &t));
	d = ASK("172.18.0.2", G, 10, 7, "172.18.0.3", G, 10, 0,
		TCP(5432), 0, 0);
	CHECK(d.index == BW_REASON_MAX + 0 && d.action == BW_ACTION_ALLOW);
	CHECK(d.class == BW_CLASS_INTER_CONTAINER && d.identity[0] == 3 && d.identity[1] == 4 && !d.log);
	d = ASK("fd00::2", G, 10, 7, "fd00::3", G, 10, 0,
		TCP(5431), 0, 0);
	CHECK(d.index == BW_REASON_MAX + 1 && d.action == BW_ACTION_REJECT && d.log);
	d = ASK("172.18.0.2", G, 10, 7, "172.18.0.3", G, 10, 0,
		TCP(5433), 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_INTER_CONTAINER && d.action == BW_ACTION_DENY);
	d = ASK("172.18.0.2", G, 10, 7, "8.8.8.8", W, 0, 0,
		DNS, 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_EGRESS && d.action == BW_ACTION_ALLOW);
	d = ASK("172.19.0.2", G, 20, 0, "172.18.0.2", G, 10, 0,
		TCP(443), 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_INTER_CONTAINER);
	d = ASK("10.10.255.255", W, 0, 0, "172.18.0.2", G, 10, 0,
		TCP(443), 0, 0);
	CHECK(d.action == BW_ACTION_ALLOW && d.identity[0] == 6);
	d = ASK("10.11.0.0", W, 0, 0, "172.18.0.2", G, 10, 0,
		TCP(443), 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_INGRESS && d.identity[0] == BW_ID_WORLD);
	d = ASK("2001:db8:10::5", W, 0, 0, "fd00::2", G, 10, 0,
		TCP(443), 0, BW_Q_DIRECT);
	CHECK(d.index == BW_REASON_MAX + 0);
	d = ASK("10.10.0.1", W, 0, 0, "172.18.0.3", G, 10, 0,
		TCP(5432), 0, BW_Q_DIRECT);
	CHECK(d.index == BW_REASON_DIRECT && d.action == BW_ACTION_DENY);
	d = ASK("10.10.0.1", W, 0, 0, "10.0.0.1", H, 0, 0,
		TCP(22), 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_HOST_INGRESS && d.action == BW_ACTION_ALLOW);
	d = ASK("10.0.0.1", H, 0, 0, "172.18.0.2", G, 10, 0,
		TCP(22), 0, 0);
	CHECK(d.class == BW_CLASS_FROM_HOST && d.action == BW_ACTION_ALLOW);
	d = ASK("10.0.0.1", H, 0, 0, "8.8.8.8", W, 0, 0,
		TCP(22), 0, 0);
	CHECK(d.class == BW_CLASS_NONE && d.action == BW_ACTION_ALLOW);
	demolish(&b);
	test_clear(&t);
}

static void test_sources(void)
{
	struct question q = { "172.18.0.2", G, 10, 7, "172.18.0.3", G, 10, 0, TCP(5432), 0, 0 };
	struct test_draft t;
	struct built b;

	example(&t);
	CHECK(build(&b, &t));
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from_port = 8;
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.from_port = 0;	/* not shown: not checked */
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from_link = 20;
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.sender = BW_RESPONDER;	/* the answer's receiver is elsewhere */
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.sender = BW_INITIATOR;
	q.from_link = 10;
	q.to_link = 20;
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.to_link = 10;
	q.from = "172.18.0.99";
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.from = "0.0.0.0";
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.from = "172.18.0.2";
	q.to = "224.0.0.251";	/* nobody's: the partition speaks */
	CHECK(ask(&b, q).index == BW_REASON_DEFAULT_INTER_CONTAINER);
	q.to = "255.255.255.255";
	CHECK(ask(&b, q).identity[1] == BW_ID_WORLD);
	q.to = "172.18.255.255";
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	demolish(&b);
	test_clear(&t);
}

static void test_errors(void)
{
	struct bw_query q = { .service = TCP(5432), .sender = BW_RESPONDER, .flags = BW_Q_ERROR };
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	example(&t);
	CHECK(build(&b, &t));
	test_party(&q.side[0], "172.18.0.2", G, 10, 0);
	test_party(&q.side[1], "172.18.0.3", G, 10, 8);
	inet_pton(AF_INET, "172.18.0.3", &q.source);
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.index == BW_REASON_MAX);
	inet_pton(AF_INET, "172.18.0.2", &q.source);	/* another port's */
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.index == BW_REASON_SPOOFED);
	inet_pton(AF_INET, "172.19.0.2", &q.source);	/* another link's */
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.index == BW_REASON_SPOOFED);
	inet_pton(AF_INET, "172.18.0.99", &q.source);
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.index == BW_REASON_UNMANAGED);
	demolish(&b);
	test_clear(&t);
}

#define UDP(port)	bw_service(17, port)

/* A client without an address is who its port belongs to. */
static void test_dhcp(void)
{
	struct question query = { "0.0.0.0", G, 10, 7, "255.255.255.255", H, 0, 0, UDP(67), 0, BW_Q_DHCP };
	struct question answer = { "172.18.0.3", G, 10, 8, "fe80::5", G, 10, 0, UDP(546), 0, BW_Q_DHCP };
	struct test_draft t;
	struct built b;

	example(&t);
	CHECK(build(&b, &t));
	CHECK(ask(&b, query).identity[0] == 3 && ask(&b, query).index == BW_REASON_DEFAULT_TO_HOST);
	query.from_port = 8;
	CHECK(ask(&b, query).identity[0] == 4);
	query.from = "fe80::5";
	query.to = "ff02::1:2";
	CHECK(ask(&b, query).identity[0] == 4);
	query.to_kind = G;
	CHECK(ask(&b, query).identity[1] == BW_ID_WORLD);
	query.from_link = 20;	/* no port of that link */
	CHECK(ask(&b, query).index == BW_REASON_UNMANAGED);
	query.from_link = 10;
	query.from_port = 0;
	CHECK(ask(&b, query).index == BW_REASON_UNMANAGED);
	query.from_port = 7;
	query.flags = 0;
	CHECK(ask(&b, query).index == BW_REASON_UNMANAGED);
	query.flags = BW_Q_DHCP;
	query.from = "fd00::3";	/* an endpoint's, from another port */
	CHECK(ask(&b, query).index == BW_REASON_SPOOFED);
	answer.from = "fd00::3";
	CHECK(ask(&b, answer).identity[1] == BW_ID_WORLD);
	answer.flags = 0;
	CHECK(ask(&b, answer).index == BW_REASON_UNMANAGED);
	query.from = "fe80::5";
	CHECK(ask(&b, query).identity[0] == 3);
	bw_endpoints_close_link(b.e, 7);
	CHECK(ask(&b, query).index == BW_REASON_UNMANAGED);
	demolish(&b);
	test_endpoint4(&t, "172.18.0.4", 3, 10, 7);	/* one identity twice */
	test_endpoint6(&t, "fd00::4", 4, 10, 7);	/* two identities on one port */
	CHECK(build(&b, &t));
	CHECK(ask(&b, query).index == BW_REASON_UNMANAGED);
	query.from = "0.0.0.0";
	query.to = "255.255.255.255";
	CHECK(ask(&b, query).identity[0] == 3);
	demolish(&b);
	test_clear(&t);
}

/* An answer that may as well begin a connection obeys rules against that. */
static void test_back(void)
{
	struct bw_query q = { .service = TCP(5432), .sender = BW_RESPONDER };
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	example(&t);
	test_rule(&t, 102, BW_ACTION_DENY, BW_RULE_F_LOG);
	test_span(&t, TCP(22), TCP(22), 2, 2);
	test_span(&t, TCP(23), TCP(23), 0, NONE);
	test_block(&t, 3, 2);
	test_pair(&t, 4, 3, 3);	/* db -> web */
	CHECK(build(&b, &t));
	test_party(&q.side[0], "172.18.0.2", G, 10, 0);
	test_party(&q.side[1], "172.18.0.3", G, 10, 8);
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX);
	q.back = TCP(24);	/* no rule: it is an answer */
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX);
	q.back = TCP(23);	/* one that allows it changes nothing */
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX);
	q.back = TCP(22);
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.action == BW_ACTION_DENY && d.index == BW_REASON_MAX + 2 && d.log);
	q.service = TCP(1);	/* refused anyway: that rule's */
	bw_classify(b.r, b.e, &q, &d);
	CHECK(d.index == BW_REASON_MAX + 1);
	demolish(&b);
	test_clear(&t);
}

/* The office's connection to a container, whichever of them spoke first. */
static struct bw_decision ask_open(const struct built *b, u8 flags, bool server_first,
				   u16 office, u16 port)
{
	struct bw_query q = { .flags = flags };
	struct bw_decision d;

	test_party(&q.side[server_first], "10.10.0.1", W, 0, 0);
	test_party(&q.side[!server_first], "172.18.0.2", G, 10, 0);
	inet_pton(AF_INET, "172.18.0.2", &q.source);
	q.service = TCP(server_first ? office : port);
	q.back = TCP(server_first ? port : office);
	bw_classify(b->r, b->e, &q, &d);
	return d;
}

static struct bw_decision ask_picked_up(const struct built *b, u8 flags, bool server_first,
					u16 office, u16 port)
{
	return ask_open(b, BW_Q_PICKED_UP | flags, server_first, office, port);
}

/* What audit asks about a packet that does not tell who began. */
static void test_either_way(void)
{
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	example(&t);
	test_rule(&t, 102, BW_ACTION_DENY, 0);
	test_span(&t, TCP(22), TCP(22), 2, 2);
	test_block(&t, 3, 1);
	test_pair(&t, 3, 6, 3);	/* web -> office: no ssh */
	test_publish(&t, "0.0.0.0", 17, 51820, "172.18.0.2", 51821);
	CHECK(build(&b, &t));
	d = ask_open(&b, BW_Q_EITHER_WAY, true, 40000, 443);
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX && d.identity[0] == 6);
	d = ask_open(&b, BW_Q_EITHER_WAY, false, 22, 443);	/* the rule's own action */
	CHECK(d.action == BW_ACTION_DENY && d.index == BW_REASON_MAX + 2);
	d = ask_open(&b, BW_Q_EITHER_WAY, true, 40000, 8080);
	CHECK(d.action == BW_ACTION_DENY && d.index == BW_REASON_DEFAULT_INGRESS);
	CHECK(bw_bit_test(b.e->udp_server_port, 51820) && bw_bit_test(b.e->udp_server_port, 51821));
	CHECK(!bw_bit_test(b.e->server_port, 51820) && !bw_bit_test(b.e->udp_server_port, 443));
	demolish(&b);
	test_clear(&t);
}

static void test_picked_up(void)
{
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	example(&t);
	test_rule(&t, 102, BW_ACTION_DENY, BW_RULE_F_LOG);
	test_span(&t, TCP(22), TCP(22), 2, 2);
	test_block(&t, 3, 1);
	test_pair(&t, 3, 6, 3);	/* web -> office: no ssh */
	CHECK(build(&b, &t));
	d = ask_picked_up(&b, 0, false, 40000, 443);	/* office -> web */
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX && d.identity[0] == 6);
	d = ask_picked_up(&b, 0, true, 40000, 443);	/* the same: an allow either way round */
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_MAX && d.identity[0] == 6);
	CHECK(d.class == BW_CLASS_INGRESS && d.identity[1] == 3);
	d = ask_picked_up(&b, BW_Q_DIRECT, true, 40000, 443);	/* counts not, turned round */
	CHECK(d.action == BW_ACTION_ALLOW);
	d = ask_picked_up(&b, 0, false, 22, 443);	/* a refusal either way round wins */
	CHECK(d.action == BW_ACTION_REJECT && d.index == BW_REASON_MAX + 2 && d.log);
	CHECK(d.class == BW_CLASS_EGRESS && d.identity[0] == 3);
	d = ask_picked_up(&b, BW_Q_ERROR, true, 22, 443);	/* nobody answers an error */
	CHECK(d.action == BW_ACTION_DENY && d.index == BW_REASON_MAX + 2 && d.log);
	d = ask_picked_up(&b, 0, false, 40000, 8080);	/* what was revoked does not come back */
	CHECK(d.action == BW_ACTION_REJECT && d.index == BW_REASON_DEFAULT_INGRESS);
	d = ask_picked_up(&b, 0, true, 40000, 8080);	/* nor because its server spoke first */
	CHECK(d.action == BW_ACTION_REJECT && d.index == BW_REASON_DEFAULT_INGRESS);
	d = ask_picked_up(&b, 0, true, 443, 40000);	/* egress by default lives on */
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_DEFAULT_EGRESS);
	d = ask_picked_up(&b, 0, true, 25, 32767);	/* not from a server's port */
	CHECK(d.action == BW_ACTION_REJECT && d.index == BW_REASON_DEFAULT_INGRESS);
	demolish(&b);
	test_publish(&t, "0.0.0.0", 6, 8444, "172.18.0.2", 40000);
	CHECK(build(&b, &t));
	d = ask_picked_up(&b, 0, true, 25, 40000);
	CHECK(d.action == BW_ACTION_REJECT && d.index == BW_REASON_DEFAULT_INGRESS);
	d = ask_picked_up(&b, 0, true, 25, 40001);
	CHECK(d.action == BW_ACTION_ALLOW);
	d = ask_picked_up(&b, BW_Q_TURNED, false, 25, 40001);	/* the same, written down turned */
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_DEFAULT_EGRESS);
	demolish(&b);
	t.d.defaults[BW_CLASS_INGRESS] = BW_ACTION_ALLOW;	/* both defaults */
	CHECK(build(&b, &t));
	d = ask_picked_up(&b, 0, true, 25, 40000);
	CHECK(d.action == BW_ACTION_ALLOW && d.index == BW_REASON_DEFAULT_EGRESS);
	demolish(&b);
	test_clear(&t);
}

static void publish_query(struct bw_query *q, const char *to, u32 service)
{
	memset(q, 0xa5, sizeof(*q));	/* leftovers behind an IPv4 address */
	q->sender = BW_INITIATOR;
	q->flags = BW_Q_DIRECT;
	q->service = service;
	q->side[0].kind = W;
	inet_pton(strchr(to, ':') ? AF_INET6 : AF_INET, to, &q->side[1].addr);
	q->side[1].family = strchr(to, ':') ? AF_INET6 : AF_INET;
	q->side[1].kind = H;
}

static void test_published(void)
{
	struct test_draft t;
	struct bw_query q;
	struct built b;
	u32 web, db;

	inet_pton(AF_INET, "172.18.0.2", &web);
	inet_pton(AF_INET, "172.18.0.3", &db);
	example(&t);
	CHECK(build(&b, &t));
	publish_query(&q, "198.51.100.7", TCP(8443));
	CHECK(bw_published_resolve(b.e, &q) && q.side[1].addr.v4 == web && q.service == TCP(443));
	CHECK(q.side[1].kind == G && !q.side[1].link && !(q.flags & BW_Q_DIRECT));
	publish_query(&q, "192.0.2.1", TCP(8443));	/* the exact address wins */
	CHECK(bw_published_resolve(b.e, &q) && q.side[1].addr.v4 == db && q.service == TCP(444));
	publish_query(&q, "2001:db8::1", TCP(8443));
	CHECK(bw_published_resolve(b.e, &q) && q.side[1].family == AF_INET && q.side[1].addr.v4 == web);
	publish_query(&q, "192.0.2.1", bw_service(17, 8443));
	CHECK(!bw_published_resolve(b.e, &q) && q.side[1].kind == H);
	publish_query(&q, "192.0.2.1", TCP(8444));
	CHECK(!bw_published_resolve(b.e, &q));
	demolish(&b);
	test_clear(&t);
}

static void test_closing(void)
{
	struct question q = { "172.18.0.2", G, 10, 7, "172.18.0.3", G, 10, 0, TCP(5432), 0, 0 };
	struct question q6 = { "fd00::2", G, 10, 7, "fd00::3", G, 10, 0, TCP(5432), 0, 0 };
	struct test_draft t;
	struct built b;

	example(&t);
	CHECK(build(&b, &t));
	bw_endpoints_close_link(b.e, 9);
	bw_endpoints_close_link(b.e, 8 + 65536);	/* the same low bits only */
	bw_endpoints_close_child(b.e, 11, 8);	/* another link */
	bw_endpoints_close_child(b.e, 10, 9);	/* another port */
	CHECK(ask(&b, q).index == BW_REASON_MAX && ask(&b, q6).index == BW_REASON_MAX);
	/* Inside a namespace the receiver shows its port, too. */
	q.to_port = 9;
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.to_port = 8;
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.to_port = 0;
	bw_endpoints_close_child(b.e, 10, 8);
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED && ask(&b, q6).index == BW_REASON_UNMANAGED);
	q.to = "8.8.8.8";
	q.to_kind = W;
	CHECK(ask(&b, q).index == BW_REASON_DEFAULT_EGRESS);
	bw_endpoints_close_link(b.e, 10);
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	demolish(&b);
	test_clear(&t);
}

/*
 * Routed prefixes in the example: 10.13.0.0/16 and fd13::/32 (identity 3) behind
 * port 7 of link 10 and child 2^31 + 5 of link 20, within it 10.13.13.0/24 (4)
 * behind port 8 and 9 of link 10, and 10.14.0.0/16 behind nobody.
 */
#define CHILD	(1U << 31 | 5)

static void routed(struct test_draft *t)
{
	example(t);
	test_prefix(t, "10.13.13.0/24", 4, 1);
	test_prefix(t, "10.13.0.0/16", 3, 0);
	test_prefix(t, "10.14.0.0/16", 3, 2);
	test_prefix(t, "fd13::/32", 3, 0);
	test_prefix(t, "fd13::8/128", 4, 1);
	test_behind(t, 0, 10, 7);
	test_behind(t, 0, 20, CHILD);
	test_behind(t, 1, 10, 8);
	test_behind(t, 1, 10, 9);
}

static void test_routed(void)
{
	struct question q = { "10.13.1.1", G, 10, 7, "172.18.0.3", G, 10, 0, TCP(5432), 0, 0 };
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	routed(&t);
	CHECK(build(&b, &t));
	d = ask(&b, q);
	CHECK(d.index == BW_REASON_MAX && d.identity[0] == 3);
	q.from = "10.13.255.255";
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from = "fd13:0:ffff:ffff:ffff:ffff:ffff:ffff";
	q.to = "fd00::3";
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from = "fd13:1::";
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.to = "172.18.0.3";
	q.from = "10.12.255.255";
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.from = "10.13.1.1";
	q.from_port = 8;
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.from_port = 0;	/* not shown: some port of the link is right */
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from_link = 20;
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from_port = CHILD;
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.from_link = 30;
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	/* The longest one counts, and both of its ports are right. */
	q.from = "10.13.13.1";
	q.from_link = 10;
	q.from_port = 7;
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.from_port = 8;
	CHECK(ask(&b, q).identity[0] == 4);
	q.from_port = 9;
	CHECK(ask(&b, q).identity[0] == 4);
	/* Behind the end of the inner one the outer one goes on. */
	q.from = "10.13.14.0";
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.from = "10.14.0.1";	/* its set is empty */
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	/* As receiver: elsewhere it is not spoofed, but nobody. */
	q = (struct question){ "172.18.0.2", G, 10, 7, "10.13.13.5", G, 10, 0, TCP(5432), 0, 0 };
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.to_port = 7;
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.to_port = 9;
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.to_link = 20;
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	/* From outside: as to any container's own address. */
	q = (struct question){ "10.10.0.1", W, 0, 0, "10.13.1.1", G, 10, 0, TCP(443), 0, BW_Q_DIRECT };
	CHECK(ask(&b, q).index == BW_REASON_MAX);
	q.service = TCP(444);
	CHECK(ask(&b, q).index == BW_REASON_DIRECT);
	/* An address of the world, where nothing is guarded. */
	q = (struct question){ "172.18.0.2", G, 10, 7, "10.13.1.1", W, 0, 0, TCP(443), 0, 0 };
	CHECK(ask(&b, q).index == BW_REASON_DEFAULT_EGRESS);
	demolish(&b);
	test_clear(&t);
}

static u32 routed_error(struct built *b, const char *source, u32 port)
{
	struct bw_query q = { .service = TCP(5432), .sender = BW_INITIATOR, .flags = BW_Q_ERROR };
	struct bw_party outer;
	struct bw_decision d;

	test_party(&q.side[0], "10.13.1.1", G, 10, port);
	test_party(&q.side[1], "172.18.0.3", G, 10, 0);
	test_party(&outer, source, G, 0, 0);
	q.source = outer.addr;
	bw_classify(b->r, b->e, &q, &d);
	return d.index;
}

static void test_routed_errors(void)
{
	struct test_draft t;
	struct built b;

	routed(&t);
	CHECK(build(&b, &t));
	CHECK(routed_error(&b, "10.13.7.7", 7) == BW_REASON_MAX);
	CHECK(routed_error(&b, "172.18.0.2", 7) == BW_REASON_MAX);
	CHECK(routed_error(&b, "10.13.7.7", 8) == BW_REASON_SPOOFED);
	CHECK(routed_error(&b, "10.15.7.7", 7) == BW_REASON_UNMANAGED);
	CHECK(routed_error(&b, "10.14.7.7", 7) == BW_REASON_UNMANAGED);
	demolish(&b);
	test_clear(&t);
}

static void test_routed_closing(void)
{
	struct question q = { "10.13.13.1", G, 10, 8, "172.18.0.2", G, 10, 0, TCP(1), 0, 0 };
	struct question child = { "10.13.1.1", G, 20, CHILD, "172.18.0.2", G, 10, 0, TCP(1), 0, 0 };
	struct test_draft t;
	struct built b;

	routed(&t);
	CHECK(build(&b, &t));
	CHECK(!bw_endpoints_close_link(b.e, 11) && !bw_endpoints_close_link(b.e, 9 + 65536));
	CHECK(ask(&b, q).index == BW_REASON_DEFAULT_INTER_CONTAINER);
	CHECK(bw_endpoints_close_link(b.e, 9) && !bw_endpoints_close_link(b.e, 9));
	CHECK(ask(&b, q).index == BW_REASON_DEFAULT_INTER_CONTAINER);
	q.from_port = 9;	/* its number is another link's by now */
	CHECK(ask(&b, q).index == BW_REASON_SPOOFED);
	q.from_port = 8;
	bw_endpoints_close_link(b.e, 8);
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	q.from_port = 0;
	CHECK(ask(&b, q).index == BW_REASON_UNMANAGED);
	CHECK(!bw_endpoints_close_child(b.e, 21, CHILD) && !bw_endpoints_close_child(b.e, 20, CHILD + 1));
	CHECK(ask(&b, child).index == BW_REASON_DEFAULT_INTER_CONTAINER);
	CHECK(bw_endpoints_close_child(b.e, 20, CHILD));
	CHECK(ask(&b, child).index == BW_REASON_SPOOFED);	/* port 7 is left */
	CHECK(bw_endpoints_close_link(b.e, 10));
	CHECK(ask(&b, child).index == BW_REASON_UNMANAGED);
	demolish(&b);
	test_clear(&t);
}

static void test_host_ingress(void)
{
	struct test_draft t;
	struct built b;
	int i;

	for (i = 0; i < 5; i++) {
		example(&t);
		if (i == 1)
			t.d.defaults[BW_CLASS_HOST_INGRESS] = BW_ACTION_DENY;
		if (i == 2)	/* office -> host, an allow only */
			test_pair(&t, 6, BW_ID_HOST, 1);
		if (i == 3)	/* office -> host, with a reject */
			test_pair(&t, 6, BW_ID_HOST, 0);
		if (i == 4)	/* container -> host, with a reject */
			test_pair(&t, 3, BW_ID_HOST, 0);
		CHECK(build(&b, &t));
		CHECK(b.r->host_ingress == (i == 1 || i == 3));
		demolish(&b);
		test_clear(&t);
	}
}

static void test_empty(void)
{
	struct test_draft t;
	struct bw_decision d;
	struct built b;

	test_minimal(&t);
	CHECK(build(&b, &t));
	d = ASK("10.0.0.1", W, 0, 0, "10.0.0.2", G, 3, 0,
		TCP(1), 0, 0);
	CHECK(d.index == BW_REASON_UNMANAGED);
	d = ASK("::1", W, 0, 0, "ff02::1", G, 3, 0,
		TCP(1), 0, 0);
	CHECK(d.index == BW_REASON_DEFAULT_INGRESS && d.identity[1] == BW_ID_WORLD);
	demolish(&b);
	test_clear(&t);
}

/* Each spoils the example in one place. */
#define AT(type, section, i) (&((type *)t->d.data[section])[i])

#define SPOIL(way, what) do { if (how == (way)) { what; } } while (0)

static void queue(struct bw_nl_rule *r, u16 first, u16 n)
{
	r->action = BW_ACTION_QUEUE;
	r->queue = first;
	r->queues = n;
}

static void spoil(struct test_draft *t, int how)
{
	SPOIL(0, t->d.mode = 2);
	SPOIL(1, t->d.defaults[5] = BW_ACTION_QUEUE);
	SPOIL(2, t->d.defaults[0] = 9);
	SPOIL(3, t->d.count[BW_S_IDENTITY] = 2);
	SPOIL(4, AT(struct bw_nl_identity, BW_S_IDENTITY, 1)->row = BW_MAX_IDENTITIES);
	SPOIL(5, AT(struct bw_nl_identity, BW_S_IDENTITY, 6)->column = U32_MAX);
	SPOIL(6, AT(struct bw_nl_cell4, BW_S_CELL4, 0)->start = 1);
	SPOIL(7, AT(struct bw_nl_cell4, BW_S_CELL4, 2)->start = htonl(0x0a0a0000));
	SPOIL(8, AT(struct bw_nl_cell4, BW_S_CELL4, 1)->world = 7);
	SPOIL(9, AT(struct bw_nl_cell6, BW_S_CELL6, 0)->start[15] = 1);
	SPOIL(10, AT(struct bw_nl_cell6, BW_S_CELL6, 2)->start[0] = 0);
	SPOIL(11, AT(struct bw_nl_cell6, BW_S_CELL6, 2)->host = U32_MAX);
	SPOIL(12, AT(struct bw_nl_endpoint4, BW_S_ENDPOINT4, 0)->addr = 0);
	SPOIL(13, AT(struct bw_nl_endpoint4, BW_S_ENDPOINT4, 0)->identity = 7);
	SPOIL(14, AT(struct bw_nl_endpoint4, BW_S_ENDPOINT4, 0)->link = 0);
	SPOIL(15, AT(struct bw_nl_endpoint4, BW_S_ENDPOINT4, 0)->addr = htonl(0xac120003));
	SPOIL(16, AT(struct bw_nl_endpoint6, BW_S_ENDPOINT6, 0)->addr[15] = 3);
	SPOIL(17, AT(struct bw_nl_endpoint6, BW_S_ENDPOINT6, 0)->addr[0] = 0xff);
	SPOIL(18, AT(struct bw_nl_endpoint6, BW_S_ENDPOINT6, 1)->identity = 7);
	SPOIL(19, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->family = 3);
	SPOIL(20, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->to_family = 0);
	SPOIL(21, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->host_addr[4] = 1);
	SPOIL(22, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->to_addr[15] = 1);
	SPOIL(23, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->reserved = 1);
	SPOIL(24, AT(struct bw_nl_publish, BW_S_PUBLISH, 0)->to_port = 0);
	SPOIL(25, memset(AT(struct bw_nl_publish, BW_S_PUBLISH, 1)->host_addr, 0, 4));
	SPOIL(26, AT(struct bw_nl_rule, BW_S_RULE, 0)->action = BW_ACTION_QUEUE);
	SPOIL(27, AT(struct bw_nl_rule, BW_S_RULE, 0)->flags = 2);
	SPOIL(28, AT(struct bw_nl_rule, BW_S_RULE, 1)->reserved = 1);
	SPOIL(29, memset(AT(struct bw_nl_rule, BW_S_RULE, 1)->name, 'x', BW_NAME_LEN));
	SPOIL(30, AT(struct bw_nl_span, BW_S_SPAN, 0)->lo = TCP(6000));
	SPOIL(31, AT(struct bw_nl_span, BW_S_SPAN, 0)->hi = BW_SERVICE_MAX + 1);
	SPOIL(32, AT(struct bw_nl_span, BW_S_SPAN, 0)->rule = 2);
	SPOIL(33, AT(struct bw_nl_span, BW_S_SPAN, 0)->direct = 0xfffffffe);
	SPOIL(34, AT(struct bw_nl_span, BW_S_SPAN, 0)->hi = TCP(5432));
	SPOIL(35, AT(struct bw_nl_block, BW_S_BLOCK, 0)->count = 4);
	SPOIL(36, AT(struct bw_nl_block, BW_S_BLOCK, 1)->first = U32_MAX);
	SPOIL(37, AT(struct bw_nl_block, BW_S_BLOCK, 0)->count = U32_MAX);
	SPOIL(38, AT(struct bw_nl_block, BW_S_BLOCK, 0)->count = 3);
	SPOIL(39, AT(struct bw_nl_pair, BW_S_PAIR, 0)->block = 3);
	SPOIL(40, AT(struct bw_nl_pair, BW_S_PAIR, 0)->row = BW_MAX_IDENTITIES);
	SPOIL(41, AT(struct bw_nl_pair, BW_S_PAIR, 0)->row = 6);
	SPOIL(42, t->d.n_guard = BW_MAX_GUARDS + 1);
	SPOIL(43, t->d.n_guard = 1);
	SPOIL(44, t->d.count[BW_S_CELL4] = BW_MAX_CELLS + 1);
	SPOIL(45, queue(AT(struct bw_nl_rule, BW_S_RULE, 0), 1, 1);
	      t->d.placement = BW_PLACEMENT_CONTAINER);
	SPOIL(46, t->d.placement = 3);
	SPOIL(47, AT(struct bw_nl_rule, BW_S_RULE, 0)->queues = 1);
	SPOIL(48, AT(struct bw_nl_rule, BW_S_RULE, 0)->queue = 1);
	SPOIL(49, queue(AT(struct bw_nl_rule, BW_S_RULE, 0), 65535, 2));
	SPOIL(50, queue(AT(struct bw_nl_rule, BW_S_RULE, 0), 2, 65535));
	SPOIL(51, AT(struct bw_nl_prefix4, BW_S_PREFIX4, 0)->length = 33);
	SPOIL(52, AT(struct bw_nl_prefix4, BW_S_PREFIX4, 0)->length = 23);
	SPOIL(53, AT(struct bw_nl_prefix4, BW_S_PREFIX4, 0)->identity = 7);
	SPOIL(54, AT(struct bw_nl_prefix4, BW_S_PREFIX4, 0)->set = BW_MAX_BEHIND);
	SPOIL(55, test_prefix(t, "10.13.0.0/16", 4, 1));
	SPOIL(56, test_prefix(t, "0.0.0.0/0", 3, 0));
	SPOIL(57, test_prefix(t, "64.0.0.0/2", 3, 0));	/* loopback is in it */
	SPOIL(58, test_prefix(t, "192.0.0.0/2", 3, 0));	/* groups are */
	SPOIL(59, test_prefix(t, "239.1.1.1/32", 3, 0));
	SPOIL(60, test_prefix(t, "::/64", 3, 0));
	SPOIL(61, test_prefix(t, "fe80::/64", 3, 0));
	SPOIL(62, test_prefix(t, "fe00::/8", 3, 0));
	SPOIL(63, test_prefix(t, "ff02::1/128", 3, 0));
	SPOIL(64, test_prefix(t, "::ffff:10.0.0.0/104", 3, 0));
	SPOIL(65, AT(struct bw_nl_prefix6, BW_S_PREFIX6, 0)->length = 129);
	SPOIL(66, AT(struct bw_nl_prefix6, BW_S_PREFIX6, 0)->addr[15] = 1);
	SPOIL(67, AT(struct bw_nl_prefix6, BW_S_PREFIX6, 1)->identity = U32_MAX);
	SPOIL(68, AT(struct bw_nl_prefix6, BW_S_PREFIX6, 1)->set = U32_MAX);
	SPOIL(69, AT(struct bw_nl_behind, BW_S_BEHIND, 0)->set = BW_MAX_BEHIND);
	SPOIL(70, AT(struct bw_nl_behind, BW_S_BEHIND, 0)->link = 0);
	SPOIL(71, AT(struct bw_nl_behind, BW_S_BEHIND, 0)->port = 0);
	SPOIL(72, test_behind(t, 1, 10, 8));
	SPOIL(73, test_prefix(t, "fd13::/32", 4, 1));
}

static void test_refusals(void)
{
	struct test_draft t;
	struct built b;
	u32 count;
	int how;

	for (how = 0; how < 74; how++) {
		routed(&t);
		count = t.d.count[BW_S_CELL4];
		spoil(&t, how);
		if (build(&b, &t)) {
			snprintf(failure, sizeof(failure),
				 "draft spoiled in way %d was accepted", how);
			failed = failure;
		}
		CHECK(b.f.err < 0 && b.f.why);
		demolish(&b);
		t.d.count[BW_S_CELL4] = count;
		test_clear(&t);
	}
}

static void test_no_memory(void)
{
	struct test_draft t;
	struct built b;
	long budget;

	routed(&t);
	for (budget = 0; budget < 100; budget++) {
		bool good;

		bw_test_alloc_budget = budget;
		good = build(&b, &t);
		bw_test_alloc_budget = -1;
		CHECK(good || b.f.err == -ENOMEM);
		demolish(&b);
		if (good)
			break;
	}
	CHECK(budget > 10 && budget < 100);
	test_clear(&t);
}

/* A table of consecutive numbers, as containers' addresses are. */
static bool number_fill(void *slot, const void *source, u32 i)
{
	*(u64 *)slot = *(const u64 *)source + i;
	return true;
}

static u64 number_hash(const struct bw_table *t, const void *slot)
{
	return bw_hash1(t, *(const u64 *)slot);
}

static bool number_used(const void *slot)
{
	return *(const u64 *)slot;
}

static bool number_same(const void *a, const void *b)
{
	return *(const u64 *)a == *(const u64 *)b;
}

/* 16: a third seed is drawn for one table in a thousand, a fourth for next to none. */
static void test_short_runs(void)
{
	static const struct bw_table_ops ops = {
		.slot_size = sizeof(u64), .fill = number_fill, .hash = number_hash,
		.used = number_used, .same = number_same,
	};
	const u64 first = 0x0a000005;
	u32 i, j, run, longest = 0, at;
	struct bw_table t;

	for (i = 0; i < 400; i++) {
		CHECK(bw_table_build(&t, &ops, &first, 1000, &at) == BW_TABLE_OK);
		for (j = run = 0; j < 2 * (t.mask + 1); j++) {
			run = ((u64 *)t.slots)[j & t.mask] ? run + 1 : 0;
			longest = run > longest ? run : longest;
		}
		bw_table_free(&t);
	}
	CHECK(longest <= 16);
}

/* The same connection as the packet path's short way has it; false: it has none. */
static bool make_plain(struct bw_query *q, struct bw_plain *p)
{
	const struct bw_party *from, *to;
	u32 i;

	q->flags &= BW_Q_DIRECT;
	q->back = 0;
	q->sender &= 1;
	for (i = 0; i < 2; i++) {
		q->side[i].port = 0;
		if (q->side[i].kind != BW_KIND_GUARDED)
			bw_party_set(&q->side[i], BW_KIND_WORLD, 0, 0);
		else if (!q->side[i].link)
			return false;
	}
	from = bw_sender(q);
	to = bw_receiver(q);
	*p = (struct bw_plain) {
		.from = &from->addr, .to = &to->addr, .in = from->link, .out = to->link,
		.service = q->service, .family = from->family,
		.reply = q->sender == BW_RESPONDER, .direct = q->flags & BW_Q_DIRECT,
	};
	return from->family == to->family && (p->in || p->out);
}

/* Of a routed prefix, or a group address. */
static bool is_no_endpoint(const struct bw_endpoints *e, const struct bw_party *p)
{
	return p->kind == BW_KIND_GUARDED && !bw_ep_find(e, p->family, &p->addr);
}

/* The short way says what the long one says, or nothing; and mostly it says it. */
static void test_plain_against_twin(void)
{
	u32 said[2][2] = {}, silent = 0, denied = 0, i, j;
	struct bw_decision got, want;
	struct test_draft t;
	struct bw_plain p;
	struct bw_query q;
	struct built b;

	for (i = 0; i < 2000 && !failed; i++) {
		test_random_draft(&t);
		CHECK(build(&b, &t));
		for (j = 0; j < 400 && !failed; j++) {
			test_random_query(&q);
			if (!make_plain(&q, &p))
				continue;
			naive_classify(&t.d, &q, &want);
			if (!bw_classify_plain(b.r, b.e, &p, &got)) {
				CHECK(want.index == BW_REASON_SPOOFED || want.index == BW_REASON_UNMANAGED ||
				      is_no_endpoint(b.e, &q.side[0]) ||
				      is_no_endpoint(b.e, &q.side[1]));
				silent++;
				continue;
			}
			CHECK(naive_agrees(&got, &want));
			said[p.family == AF_INET6][p.reply]++;
			denied += got.action == BW_ACTION_DENY;
		}
		demolish(&b);
		test_clear(&t);
	}
	CHECK(said[0][0] > 1000 && said[0][1] > 1000 && said[1][0] > 1000 && said[1][1] > 1000);
	CHECK(silent > 1000 && denied > 1000);
}

static void test_against_twin(void)
{
	u32 seen[BW_REASON_MAX + 1] = {}, turned = 0, in_prefix = 0;
	struct bw_decision got, want;
	struct test_draft t;
	struct bw_query q;
	struct built b;
	u32 i, j;

	for (i = 0; i < 3000 && !failed; i++) {
		test_random_draft(&t);
		CHECK(build(&b, &t));
		for (j = 0; j < 400 && !failed; j++) {
			test_random_query(&q);
			naive_classify(&t.d, &q, &want);
			bw_classify(b.r, b.e, &q, &got);
			CHECK(naive_agrees(&got, &want));
			in_prefix += q.side[0].kind == G && got.identity[0] != BW_ID_UNMANAGED &&
				     !bw_ep_find(b.e, q.side[0].family, &q.side[0].addr);
			turned += q.flags & BW_Q_PICKED_UP && q.back && got.action == BW_ACTION_ALLOW &&
				  got.class != BW_CLASS_NONE && q.side[0].kind != q.side[1].kind;
			seen[got.index < BW_REASON_MAX ? got.index : BW_REASON_MAX]++;
		}
		demolish(&b);
		test_clear(&t);
	}
	/* The comparison is worth nothing if it never went there. */
	for (i = 0; i <= BW_REASON_DEFAULT_HOST_INGRESS; i++)
		CHECK(seen[i] > 1000);
	CHECK(seen[BW_REASON_UNMANAGED] > 1000 && seen[BW_REASON_SPOOFED] > 1000);
	CHECK(in_prefix > 1000);
	CHECK(seen[BW_REASON_DIRECT] > 1000 && seen[BW_REASON_MAX] > 1000 && turned > 1000);
}

/* Whatever is sent: refused, or built and searched without a stray access. */
static void test_damaged(void)
{
	u32 i, j, accepted = 0, refused = 0;
	struct test_draft t;
	struct bw_decision d;
	struct bw_query q;
	struct built b;

	for (i = 0; i < 20000; i++) {
		test_random_draft(&t);
		for (j = 0; j < 1 + test_below(3); j++) {
			u32 s = test_below(BW_S_MAX);
			size_t size = (size_t)t.d.count[s] * bw_section_types[s].size;

			if (size && test_below(8))
				((u8 *)t.d.data[s])[test_below(size)] ^= 1 << test_below(8);
			else if (t.d.count[s])
				t.d.count[s]--;
		}
		if (build(&b, &t)) {
			accepted++;
			for (j = 0; j < 20; j++) {
				test_random_query(&q);
				bw_classify(b.r, b.e, &q, &d);
				CHECK(d.index < BW_REASON_MAX + b.r->n_rule && d.action < BW_ACTION_QUEUE);
			}
		} else {
			refused++;
			CHECK(b.f.err < 0 && b.f.why);
		}
		demolish(&b);
		test_clear(&t);
	}
	CHECK(accepted > 1000 && refused > 1000);
}

static void test_large(void)
{
	struct test_draft t;
	struct bw_party p;
	struct built b;
	u32 i, found = 0;

	test_minimal(&t);
	test_rule(&t, 1, BW_ACTION_ALLOW, 0);
	test_span(&t, 0, BW_SERVICE_MAX, 0, 0);
	test_block(&t, 0, 1);
	for (i = 0; i < 100000; i++) {
		char text[40];

		snprintf(text, sizeof(text), "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
		test_endpoint4(&t, text, i % 3, 5, 0);
		snprintf(text, sizeof(text), "fd00::%x:%x", i >> 16, i & 0xffff);
		test_endpoint6(&t, text, i % 3, 5, 0);
		test_pair(&t, i / 300, i % 300, 0);
	}
	CHECK(build(&b, &t));
	for (i = 0; i < 100000; i++) {
		char text[40];

		snprintf(text, sizeof(text), "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
		test_party(&p, text, G, 0, 0);
		found += !!bw_ep_find(b.e, AF_INET, &p.addr);
		p.addr.v4 ^= htonl(0x01000000);
		found += 2 * !!bw_ep_find(b.e, AF_INET, &p.addr);
	}
	CHECK(found == 100000);
	demolish(&b);
	test_clear(&t);
}

/* Shared blocks must not multiply: 4 M pairs of one long block are cheap. */
static void test_shared_blocks(void)
{
	struct test_draft t;
	struct built b;
	u32 i;

	test_minimal(&t);
	test_rule(&t, 1, BW_ACTION_ALLOW, 0);
	for (i = 0; i < 200000; i++)
		test_span(&t, 2 * i, 2 * i, 0, 0);
	for (i = 0; i < 200000; i++) {
		test_block(&t, 0, 200000);
		test_pair(&t, i / 1000, i % 1000, i);
	}
	CHECK(build(&b, &t) && !b.r->host_ingress);
	demolish(&b);
	test_clear(&t);
}

static const struct {
	const char *name;
	void (*fn)(void);
} tests[] = {
	{ "worked example", test_example },
	{ "sources: spoofed, unmanaged, groups", test_sources },
	{ "ICMP errors", test_errors },
	{ "DHCP clients without an address", test_dhcp },
	{ "answers that may begin a connection", test_back },
	{ "picked up in the middle: both ways round", test_picked_up },
	{ "audit: either way round", test_either_way },
	{ "published sockets", test_published },
	{ "endpoints close with link and port", test_closing },
	{ "routed prefixes: longest, link and port, as receiver", test_routed },
	{ "ICMP errors from within a prefix", test_routed_errors },
	{ "ports of prefixes close, one by one", test_routed_closing },
	{ "host ingress is judged only where it matters", test_host_ingress },
	{ "empty ruleset", test_empty },
	{ "refusals", test_refusals },
	{ "no memory at any allocation", test_no_memory },
	{ "against the naive twin", test_against_twin },
	{ "the short way against the naive twin", test_plain_against_twin },
	{ "damaged drafts", test_damaged },
	{ "100,000 endpoints and pairs", test_large },
	{ "shared blocks", test_shared_blocks },
	{ "short runs in small tables", test_short_runs },
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void junit_text(FILE *f, const char *s)
{
	for (; *s; s++)
		if (strchr("<>&\"", *s))
			fprintf(f, "&#%d;", *s);
		else
			fputc(*s, f);
}

static void junit_case(FILE *f, const char *name, double seconds)
{
	if (!f)
		return;
	fprintf(f, "<testcase classname=\"kmod.core\" name=\"");
	junit_text(f, name);
	fprintf(f, "\" time=\"%.3f\">", seconds);
	if (failed) {
		fprintf(f, "<failure message=\"");
		junit_text(f, failed);
		fprintf(f, "\"/>");
	}
	fprintf(f, "</testcase>\n");
}

int main(int argc, char **argv)
{
	FILE *junit = argc > 2 && !strcmp(argv[1], "--junit") ? fopen(argv[2], "w") : NULL;
	u32 i, bad = 0;

	if (argc > 2 && !junit) {
		perror(argv[2]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("1..%zu\n", ARRAY_SIZE(tests));
	if (junit)
		fprintf(junit, "<testsuite name=\"kmod.core\" tests=\"%zu\">\n", ARRAY_SIZE(tests));
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		double start = now();

		failed = NULL;
		tests[i].fn();
		bad += !!failed;
		printf("%s %u - %s%s%s\n", failed ? "not ok" : "ok", i + 1, tests[i].name,
		       failed ? " # " : "", failed ? failed : "");
		junit_case(junit, tests[i].name, now() - start);
	}
	if (junit) {
		fprintf(junit, "</testsuite>\n");
		fclose(junit);
	}
	printf("%zu passed, %u failed\n", ARRAY_SIZE(tests) - bad, bad);
	return !!bad;
}
