/*
 * bw-serve NAME tcp:PORT|udp:PORT ... : the one program in the shop's containers.
 *
 * Each TCP client is greeted with "NAME PORT sees ADDRESS PORT\n", then gets back what it sends; each UDP datagram is
 * answered with that greeting followed by the datagram. Listens on IPv6 and IPv4 at once. One process, one poll loop,
 * fit to be PID 1: it ends on SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { LISTENER, DATAGRAM, CLIENT };

#define MAX_SOCKETS 256

static struct pollfd polled[MAX_SOCKETS];
static struct { enum kind kind; int port; } about[MAX_SOCKETS];
static int sockets;
static const char *name;

static void fail(const char *what)
{
	fprintf(stderr, "bw-serve: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void leave(int sig)
{
	(void)sig;
	_exit(0);
}

static void add(int fd, enum kind kind, int port)
{
	if (sockets == MAX_SOCKETS) {
		close(fd);
		return;
	}
	polled[sockets].fd = fd;
	polled[sockets].events = POLLIN;
	about[sockets].kind = kind;
	about[sockets].port = port;
	sockets++;
}

static void drop(int i)
{
	close(polled[i].fd);
	sockets--;
	polled[i] = polled[sockets];
	about[i] = about[sockets];
}

/* A dual-stack socket, or an IPv4 one where the kernel has no IPv6. */
static int bound(int type, int port)
{
	struct sockaddr_in6 any6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in any4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	int on = 1, off = 0, fd = socket(AF_INET6, type, 0), err;

	if (fd >= 0) {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		err = bind(fd, (struct sockaddr *)&any6, sizeof(any6));
	} else {
		fd = socket(AF_INET, type, 0);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		err = bind(fd, (struct sockaddr *)&any4, sizeof(any4));
	}
	if (fd < 0 || err)
		fail("bind");
	return fd;
}

static void listen_on(const char *spec)
{
	int port = atoi(spec + 4), fd;

	if (!strncmp(spec, "udp:", 4)) {
		/* replies must leave from the address that was asked: fine here, a container has one address a network */
		add(bound(SOCK_DGRAM, port), DATAGRAM, port);
		return;
	}
	if (strncmp(spec, "tcp:", 4) || port <= 0) {
		fprintf(stderr, "bw-serve: %s is neither tcp:PORT nor udp:PORT\n", spec);
		exit(2);
	}
	fd = bound(SOCK_STREAM, port);
	if (listen(fd, 64))
		fail("listen");
	add(fd, LISTENER, port);
}

static int greeting(char *text, size_t size, int port, const struct sockaddr_storage *peer)
{
	const struct sockaddr_in6 *six = (const void *)peer;
	const struct sockaddr_in *four = (const void *)peer;
	char address[INET6_ADDRSTRLEN];

	if (peer->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &six->sin6_addr, address, sizeof(address));
	else
		inet_ntop(AF_INET, &four->sin_addr, address, sizeof(address));
	return snprintf(text, size, "%s %d sees %s %d\n", name, port, address,
			ntohs(peer->ss_family == AF_INET6 ? six->sin6_port : four->sin_port));
}

static void welcome(int fd, int port)
{
	struct sockaddr_storage peer;
	socklen_t size = sizeof(peer);
	char text[256];
	int client = accept4(fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK);

	if (client < 0)
		return;
	if (write(client, text, greeting(text, sizeof(text), port, &peer)) < 0)
		close(client);
	else
		add(client, CLIENT, port);
}

static void answer(int fd, int port)
{
	struct sockaddr_storage peer;
	socklen_t size = sizeof(peer);
	char text[4096];
	char said[2048];
	ssize_t n = recvfrom(fd, said, sizeof(said), 0, (struct sockaddr *)&peer, &size);
	int head;

	if (n < 0)
		return;
	head = greeting(text, sizeof(text), port, &peer);
	memcpy(text + head, said, n);
	sendto(fd, text, head + n, 0, (struct sockaddr *)&peer, size);
}

/* False when the client is gone. */
static int echo(int fd)
{
	char text[4096];
	ssize_t n = read(fd, text, sizeof(text));

	return n > 0 && write(fd, text, n) == n;
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: bw-serve NAME tcp:PORT|udp:PORT ...\n");
		return 2;
	}
	signal(SIGTERM, leave);
	signal(SIGINT, leave);
	signal(SIGPIPE, SIG_IGN);
	name = argv[1];
	for (int i = 2; i < argc; i++)
		listen_on(argv[i]);
	for (;;) {
		if (poll(polled, sockets, -1) < 0 && errno != EINTR)
			fail("poll");
		for (int i = sockets - 1; i >= 0; i--) {
			if (!polled[i].revents)
				continue;
			polled[i].revents = 0;
			if (about[i].kind == LISTENER)
				welcome(polled[i].fd, about[i].port);
			else if (about[i].kind == DATAGRAM)
				answer(polled[i].fd, about[i].port);
			else if (!echo(polled[i].fd))
				drop(i);
		}
	}
}
