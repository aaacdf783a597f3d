/*
 * bw-oneshot ADDRESS PORT: a container that says one thing and is gone.
 *
 * With its first instructions, to an IPv4 address: one datagram to PORT, one ping, one DNS query; none is sent a second time. It waits two
 * seconds for the three answers, prints "lost:" and what of "datagram ping query" was not answered, and exits with their number.
 * A ping needs CAP_NET_RAW, which Docker gives.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 2000
#define ECHO_ID 0x6277

enum what { DATAGRAM, PING, QUERY, WHATS };

static const char *const names[WHATS] = { "datagram", "ping", "query" };

static long now_ms(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000L + at.tv_nsec / 1000000;
}

static unsigned short checksum(const void *data, size_t len)
{
	const unsigned short *word = data;
	unsigned int sum = 0;

	for (; len > 1; len -= 2)
		sum += *word++;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (unsigned short)~sum;
}

static int say(int type, int proto, struct sockaddr_in to, int port, const void *data, size_t len)
{
	int fd = socket(AF_INET, type | SOCK_NONBLOCK, proto);

	to.sin_port = htons((unsigned short)port);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) || send(fd, data, len, 0) < 0)
		fprintf(stderr, "bw-oneshot: %s\n", strerror(errno));
	return fd;
}

/* Whether it is the answer; a raw socket gets every ICMP packet. */
static int is_answer(int fd, enum what what)
{
	unsigned char packet[512];
	ssize_t len = recv(fd, packet, sizeof(packet), 0);
	size_t header = (packet[0] & 15) * 4;
	struct icmphdr echo;

	if (what != PING || len < 0)
		return len >= 0;
	if ((size_t)len < header + sizeof(echo))
		return 0;
	memcpy(&echo, packet + header, sizeof(echo));
	return echo.type == ICMP_ECHOREPLY && echo.un.echo.id == htons(ECHO_ID);
}

int main(int argc, char **argv)
{
	/* www.example.test, A, IN */
	static const unsigned char query[] = "\x62\x77\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
					     "\x03www\x07" "example\x04test\x00\x00\x01\x00\x01";
	struct icmphdr echo = { .type = ICMP_ECHO, .un.echo.id = htons(ECHO_ID) };
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct pollfd waits[WHATS];
	long end, left;
	int lost = WHATS, i;

	if (argc != 3 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "usage: bw-oneshot ADDRESS PORT\n");
		return 99;
	}
	echo.checksum = checksum(&echo, sizeof(echo));
	waits[DATAGRAM].fd = say(SOCK_DGRAM, 0, to, atoi(argv[2]), "one", 3);
	waits[PING].fd = say(SOCK_RAW, IPPROTO_ICMP, to, 0, &echo, sizeof(echo));
	waits[QUERY].fd = say(SOCK_DGRAM, 0, to, 53, query, sizeof(query) - 1);
	for (i = 0; i < WHATS; i++)
		waits[i].events = POLLIN;
	end = now_ms() + WAIT_MS;
	while (lost && (left = end - now_ms()) > 0 && poll(waits, WHATS, (int)left) > 0)
		for (i = 0; i < WHATS; i++)
			if (waits[i].fd >= 0 && waits[i].revents && is_answer(waits[i].fd, i)) {
				close(waits[i].fd);
				waits[i].fd = -1;
				lost--;
			}
	printf("lost:");
	for (i = 0; i < WHATS; i++)
		if (waits[i].fd >= 0)
			printf(" %s", names[i]);
	printf("\n");
	return lost;
}
