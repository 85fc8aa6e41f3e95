/* SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0 */
/* From a frame to its flow key. Reads only; every read is bounded by the packet's linear part, or goes through
 * bpf_skb_load_bytes where a header lies outside of it. Follows IEEE 802.1Q, RFC 791, RFC 8200, RFC 4302. */
#ifndef TRUNKLINE_PARSE_H
#define TRUNKLINE_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"

#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60
#define IPPROTO_MH 135
#define IPPROTO_HIP 139
#define IPPROTO_SHIM6 140

#define MAX_EXTENSIONS 8

/* RFC 7042: below it, the field is a length (IEEE 802.3). All such frames share the kernel's number for them. */
#define ETHERTYPE_MIN 0x0600

struct ethernet {
	__u8 dst[6];
	__u8 src[6];
	__be16 type;
};

struct tag {
	__be16 tci;
	__be16 type;
};

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u32 src;
	__u32 dst;
};

struct ipv6 {
	__be32 version_class_label;
	__be16 length;
	__u8 next;
	__u8 hops;
	__u32 src[4];
	__u32 dst[4];
};

struct extension {
	__u8 next;
	__u8 length;
	__be16 offset; /* of a fragment header */
};

struct ports {
	__be16 src;
	__be16 dst;
};

struct tcp {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	__be16 offset_flags;
};

#define TCP_FLAGS_END 14 /* bytes of it that are read */

struct icmp {
	__u8 type;
	__u8 code;
};

/* RFC 1035 4.1.1; over TCP, its length comes before it (4.2.2). */
struct dns {
	__be16 length;
	__be16 id;
	__be16 flags;
};

#define DNS_HEADER 12
#define DNS_ANSWER 0x8000
#define DNS_OPCODE 0x7800 /* 0: a standard query */
#define DNS_RCODE 0x000f

/* What the parser learns beside the key. */
struct about {
	__u32 end;       /* where the IP packet ends: what an Ethernet frame has behind that is padding */
	__u32 headers;   /* bytes before the transport payload: what every GSO segment repeats */
	__u16 tcp_flags;
	__u8 tos;
	__u8 seen;
};

/* A header of `len` bytes at `off`: in place, or copied to `copy`, or NULL where the frame is too short. */
static __always_inline void *header(struct __sk_buff *skb, __u32 off, void *copy, const __u32 len)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (data + off + len <= end)
		return data + off;
	if (bpf_skb_load_bytes(skb, off, copy, len))
		return (void *)0;
	return copy;
}

/* As above, and only where the IP packet reaches that far by its own account. */
static __always_inline void *inside(struct __sk_buff *skb, const struct about *about, __u32 off, void *copy,
				    const __u32 len)
{
	return off + len > about->end ? (void *)0 : header(skb, off, copy, len);
}

/* The same offset, of which the verifier knows nothing but its bound: half of a word on the stack is a number like
 * any other to it. Without this it follows every chain of headers by itself, three quarters of a million steps. */
static __always_inline __u32 forgotten(__u32 off)
{
	volatile struct {
		__u16 pad;
		__u16 off;
	} kept;

	kept.off = off;
	return kept.off & 0x7fff;
}

/* A length of 0 is none: what offloading makes of packets over 64 KiB, and jumbograms (RFC 2675). */
static __always_inline __u32 end_of(__u32 off, __u32 length)
{
	return length ? off + length : ~0U;
}

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

static __always_inline __u16 tag_of(__be16 type, __u16 tci)
{
	return TAG_PRESENT | (type == bpf_htons(ETH_P_8021AD) ? TAG_8021AD : 0) | (tci & 0x0fff);
}

static __always_inline void add_tag(struct flow_key *key, __u16 tag)
{
	if (!key->outer)
		key->outer = tag;
	else if (!key->inner)
		key->inner = tag;
	else
		key->marks |= MARK_MORE_TAGS;
}

static __always_inline void take_tcp(const struct tcp *tcp, __u32 off, struct flow_key *key, struct about *about)
{
	__u16 flags = bpf_ntohs(tcp->offset_flags);

	key->sport = tcp->src;
	key->dport = tcp->dst;
	about->tcp_flags = flags & 0x0fff;
	about->headers = off + (flags >> 12) * 4;
}

static __always_inline void parse_transport(struct __sk_buff *skb, __u32 off, struct flow_key *key,
					    struct about *about)
{
	about->headers = off;
	switch (key->protocol) {
	case IPPROTO_TCP: {
		struct tcp copy, *tcp = inside(skb, about, off, &copy, TCP_FLAGS_END);

		if (!tcp) {
			/* The first of tiny fragments (RFC 1858) names its ports all the same. */
			struct ports *ports = inside(skb, about, off, &copy, sizeof(*ports));

			if (ports) {
				key->sport = ports->src;
				key->dport = ports->dst;
			}
			goto truncated;
		}
		take_tcp(tcp, off, key, about);
		return;
	}
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP: {
		struct ports copy, *ports = inside(skb, about, off, &copy, sizeof(copy));

		if (!ports)
			goto truncated;
		key->sport = ports->src;
		key->dport = ports->dst;
		about->headers = off + (key->protocol == IPPROTO_SCTP ? 12 : 8);
		return;
	}
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		struct icmp copy, *icmp;

		/* Each belongs to its own family; in the other it is a protocol like any other. */
		if ((key->protocol == IPPROTO_ICMP) != (key->kind == KIND_IPV4))
			break;
		icmp = inside(skb, about, off, &copy, sizeof(copy));
		if (!icmp)
			goto truncated;
		key->sport = icmp->type;
		key->dport = icmp->code;
		return;
	}
	default:
		break;
	}
	/* Nothing to read here, but the headers before it may have said more than there is. */
	if (off <= about->end && off <= skb->len)
		return;
truncated:
	key->marks |= MARK_TRUNCATED;
}

/* 0, or -1 where there is no such header: the frame is then counted by its ethertype. */
static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 off, struct flow_key *key, struct about *about)
{
	struct ipv4 copy, *ip = header(skb, off, &copy, sizeof(copy));
	__u16 fragment;
	__u32 length;

	if (!ip)
		return -1;
	length = (ip->version_ihl & 0x0f) * 4;
	if (ip->version_ihl >> 4 != 4 || length < sizeof(*ip))
		return -1;
	about->end = end_of(off, bpf_ntohs(ip->length));
	key->kind = KIND_IPV4;
	key->src[0] = ip->src;
	key->dst[0] = ip->dst;
	key->protocol = ip->protocol;
	about->tos = ip->tos;
	if (length > sizeof(*ip))
		about->seen |= SEEN_OPTIONS;
	fragment = bpf_ntohs(ip->fragment);
	off += length;
	about->headers = off;
	if (off > about->end || off > skb->len) {
		key->marks |= MARK_TRUNCATED;
		return 0;
	}
	if (fragment & 0x1fff) {
		key->marks |= MARK_FRAGMENT;
		return 0;
	}
	if (fragment & 0x2000)
		about->seen |= SEEN_FIRST_FRAGMENT;
	if (key->protocol == IPPROTO_AH) {
		struct extension ext_copy, *ext = inside(skb, about, off, &ext_copy, sizeof(ext_copy));

		if (!ext) {
			key->marks |= MARK_TRUNCATED;
			return 0;
		}
		key->protocol = ext->next;
		off += (ext->length + 2) * 4;
	}
	parse_transport(skb, off, key, about);
	return 0;
}

static __always_inline int is_extension(__u8 next)
{
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
		return 1;
	default:
		return 0;
	}
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 off, struct flow_key *key, struct about *about)
{
	struct ipv6 copy, *ip = header(skb, off, &copy, sizeof(copy));
	__u8 next;
	int i;

	if (!ip)
		return -1;
	if (bpf_ntohl(ip->version_class_label) >> 28 != 6)
		return -1;
	key->kind = KIND_IPV6;
	__builtin_memcpy(key->src, ip->src, sizeof(key->src));
	__builtin_memcpy(key->dst, ip->dst, sizeof(key->dst));
	about->tos = bpf_ntohl(ip->version_class_label) >> 20;
	next = ip->next;
	off += sizeof(*ip);
	about->end = end_of(off, bpf_ntohs(ip->length));
	if (is_extension(next)) {
		about->seen |= SEEN_OPTIONS;
#pragma unroll
		for (i = 0; i < MAX_EXTENSIONS; i++) {
			struct extension ext_copy, *ext = inside(skb, about, off, &ext_copy, sizeof(ext_copy));
			__u8 kind = next;

			key->protocol = next;
			about->headers = off;
			if (!ext) {
				key->marks |= MARK_TRUNCATED;
				return 0;
			}
			next = ext->next;
			if (kind == IPPROTO_FRAGMENT) {
				__u16 offset = bpf_ntohs(ext->offset);

				off += 8;
				if (offset & 0xfff8) {
					key->protocol = next;
					key->marks |= MARK_FRAGMENT;
					about->headers = off;
					return 0;
				}
				if (offset & 1)
					about->seen |= SEEN_FIRST_FRAGMENT;
			} else if (kind == IPPROTO_AH) {
				off += (ext->length + 2) * 4;
			} else {
				off += (ext->length + 1) * 8;
			}
			off = forgotten(off);
			if (!is_extension(next))
				break;
		}
		if (is_extension(next)) {
			key->protocol = next;
			about->headers = off;
			key->marks |= MARK_TRUNCATED;
			return 0;
		}
	}
	key->protocol = next;
	parse_transport(skb, off, key, about);
	return 0;
}

static __always_inline int parse_arp(struct __sk_buff *skb, __u32 off, struct flow_key *key)
{
	struct arp copy, *arp = header(skb, off, &copy, sizeof(copy));

	if (!arp || arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != 6 || arp->protocol_len != 4)
		return -1;
	key->kind = KIND_ARP;
	__builtin_memcpy(&key->src[0], arp->sender, 4);
	__builtin_memcpy(&key->dst[0], arp->target, 4);
	key->sport = arp->operation;
	return 0;
}

/* Destination and source, as in the frame: of a flow's first packet only, so they are not carried along. Copied by the
 * kernel: with a pointer into the packet the verifier would have to follow every kind of frame up to here. */
static __always_inline void read_macs(struct __sk_buff *skb, __u8 dst[6], __u8 src[6])
{
	bpf_skb_load_bytes(skb, 0, dst, 6);
	bpf_skb_load_bytes(skb, 6, src, 6);
}

static __always_inline int is_plain(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* What most frames are, straight away, for a quarter of the tap's time less: Ethernet without a tag in the frame, IPv4
 * without options and fragments or IPv6 without extension headers, TCP or UDP, and all of that in the linear part. What
 * it takes, it takes as the long way would. 0: the frame is another, and nothing was written. */
static __always_inline int parse_plain(struct __sk_buff *skb, struct flow_key *key, struct about *about)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethernet *eth = data;
	struct tcp *tcp;
	__u32 off, length;

	if (data + sizeof(*eth) + sizeof(struct ipv4) + TCP_FLAGS_END > end)
		return 0;
	if (eth->type == bpf_htons(ETH_P_IP)) {
		struct ipv4 *ip = (void *)(eth + 1);

		length = bpf_ntohs(ip->length);
		if (ip->version_ihl != 0x45 || ip->fragment & bpf_htons(0x3fff) || !is_plain(ip->protocol) ||
		    length < sizeof(*ip) + TCP_FLAGS_END)
			return 0;
		key->kind = KIND_IPV4;
		key->protocol = ip->protocol;
		key->src[0] = ip->src;
		key->dst[0] = ip->dst;
		about->tos = ip->tos;
		off = sizeof(*eth) + sizeof(*ip);
		about->end = sizeof(*eth) + length;
		tcp = (void *)(ip + 1);
	} else if (eth->type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6 *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) + TCP_FLAGS_END > end)
			return 0;
		length = bpf_ntohs(ip->length);
		if (bpf_ntohl(ip->version_class_label) >> 28 != 6 || !is_plain(ip->next) || length < TCP_FLAGS_END)
			return 0;
		key->kind = KIND_IPV6;
		key->protocol = ip->next;
		__builtin_memcpy(key->src, ip->src, sizeof(key->src));
		__builtin_memcpy(key->dst, ip->dst, sizeof(key->dst));
		about->tos = bpf_ntohl(ip->version_class_label) >> 20;
		off = sizeof(*eth) + sizeof(*ip);
		about->end = off + length;
		tcp = (void *)(ip + 1);
	} else {
		return 0;
	}
	if (key->protocol == IPPROTO_TCP) {
		take_tcp(tcp, off, key, about);
	} else {
		key->sport = tcp->src;
		key->dport = tcp->dst;
		about->headers = off + 8;
	}
	return 1;
}

/* Fills the key's tags, addresses, protocol and ports. */
static __always_inline void parse(struct __sk_buff *skb, __u32 has_ethernet, struct flow_key *key,
				  struct about *about)
{
	__be16 type;
	__u32 off = 0;
	int parsed = -1;

	if (skb->vlan_present) {
		add_tag(key, tag_of((__be16)skb->vlan_proto, skb->vlan_tci));
	}
	if (has_ethernet && parse_plain(skb, key, about))
		return;
	if (has_ethernet) {
		struct ethernet copy, *eth = header(skb, 0, &copy, sizeof(copy));
		int i;

		if (!eth) {
			key->marks |= MARK_TRUNCATED;
			return;
		}
		type = eth->type;
		off = sizeof(*eth);
#pragma unroll
		for (i = 0; i < 3; i++) {
			struct tag tag_copy, *tag;

			if (!is_tag(type))
				break;
			tag = header(skb, off, &tag_copy, sizeof(tag_copy));
			if (!tag)
				break; /* counted under the tag's own ethertype */
			add_tag(key, tag_of(type, bpf_ntohs(tag->tci)));
			type = tag->type;
			off = forgotten(off + sizeof(*tag));
		}
	} else {
		type = (__be16)skb->protocol;
	}
	about->headers = off;
	if (type == bpf_htons(ETH_P_IP))
		parsed = parse_ipv4(skb, off, key, about);
	else if (type == bpf_htons(ETH_P_IPV6))
		parsed = parse_ipv6(skb, off, key, about);
	else if (type == bpf_htons(ETH_P_ARP))
		parsed = parse_arp(skb, off, key);
	if (!parsed)
		return;
	if (type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6) || type == bpf_htons(ETH_P_ARP) || is_tag(type))
		key->marks |= MARK_TRUNCATED;
	if (bpf_ntohs(type) < ETHERTYPE_MIN)
		type = bpf_htons(ETH_P_802_2);
	key->kind = KIND_ETHERNET;
	key->sport = type;
	if (has_ethernet)
		read_macs(skb, (__u8 *)key->dst, (__u8 *)key->src);
}

#endif
