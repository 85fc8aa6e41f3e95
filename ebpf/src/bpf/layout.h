/* SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0 */
/* What programs and reader share. Every struct has its twin in ../layout.rs, and a unit test compares the sizes
 * and offsets that the compiler wrote into the object's BTF. Any change here changes the layout's hash, and with
 * it the folder in which maps are pinned: an older agent's maps are drained by their own layout, never reread. */
#ifndef TRUNKLINE_LAYOUT_H
#define TRUNKLINE_LAYOUT_H

#include <linux/types.h>

/* flow_key.kind: which of the address forms below the key holds. */
#define KIND_ETHERNET 0 /* src, dst: MAC in the first six bytes; sport: ethertype in network order */
#define KIND_ARP 1      /* src, dst: sender and target protocol address; sport: operation in network order */
#define KIND_IPV4 4
#define KIND_IPV6 6

/* flow_key.direction, as the pod sees it. On an uplink, as the node sees it. */
#define RECEIVED 0
#define SENT 1

/* flow_key.marks: part of the key, so that what cannot name its ports never mixes with what can. */
#define MARK_FRAGMENT 0x01  /* a fragment that is not the first: ports are zero */
#define MARK_TRUNCATED 0x02 /* the frame ended, or made no sense, before the field that follows what is here */
#define MARK_MORE_TAGS 0x04 /* more than two VLAN tags: the outer two are here */

/* Tags as they are on the wire: TAG_PRESENT, TAG_8021AD and the 12 bits of the VLAN id. */
#define TAG_PRESENT 0x8000
#define TAG_8021AD 0x4000

/* flow_value.seen: what any packet of the flow was, OR-ed. */
#define SEEN_FIRST_FRAGMENT 0x01 /* the first fragment of a fragmented packet, which does name its ports */
#define SEEN_OPTIONS 0x02        /* IPv4 options or IPv6 extension headers */

struct flow_key {
	__u32 src[4];   /* network order; IPv4 in the first word, the others zero */
	__u32 dst[4];
	__be16 sport;   /* ICMP and ICMPv6: the type as a number */
	__be16 dport;   /* ICMP and ICMPv6: the code as a number */
	__u16 outer;    /* the outermost tag, wherever the kernel keeps it */
	__u16 inner;
	__u16 tap;      /* slot of the tap */
	__u16 cpu;      /* merged away by the reader */
	__u8 kind;
	__u8 protocol;  /* the last IP protocol reached; 0 for ARP and Ethernet */
	__u8 direction;
	__u8 marks;
};

struct flow_value {
	__u64 skbs;
	__u64 bytes;        /* sum of skb->len */
	__u64 packets;      /* on the wire: GSO segments */
	__u64 wire_bytes;   /* Ethernet headers and tags included, frame check sequence not */
	__u64 first;        /* CLOCK_MONOTONIC_COARSE, nanoseconds */
	__u32 born;         /* likewise, the low half of the kernel's count of ticks (jiffies): read without a call */
	__u32 lasted;       /* ticks from then to the last packet */
	__u32 rtt;          /* nanoseconds; 0: none measured */
	__u16 tcp_flags;    /* OR; the low 12 bits of bytes 12 and 13 of the header */
	__u8 tos;           /* of the first packet */
	__u8 seen;
	__u8 src_mac[6];    /* of the first packet */
	__u8 dst_mac[6];
	__u8 pad[4];
};

/* A place of a processor's front table: a flow that is found without the hash map. skbs is 0 where it is free. Two
 * cache lines, the key and skbs in the first. */
struct front {
	struct flow_key key;
	struct flow_value value;
	__u64 pad;
};

/* One per slot, direction and parity of the epoch: slot << 2 | direction << 1 | parity. The reader subtracts what it
 * took before, and sets them back only when a slot is freed, which no program uses then. */
struct tap_counters {
	__u64 skbs;
	__u64 bytes;
	__u64 packets;
	__u64 wire_bytes;
	__u64 lost_skbs; /* counted above, but no room for their flow */
	__u64 lost_bytes;
	__u64 lost_packets;
	__u64 lost_wire_bytes;
};

/* tap.flags */
#define TAP_HOST_SIDE 0x1 /* the device is the node's end of a pair: what it receives, the pod sent */
#define TAP_NO_ETHERNET 0x2 /* frames start with the IP header */
#define TAP_KNOWN 0x8000 /* in tl_near, where every index has an entry: there is a tap */

/* Interface indices that tl_near has; above, tl_taps is asked. */
#define NEAR 65536

struct tap {
	__u16 slot;
	__u16 flags;
};

struct control {
	__u32 epoch;     /* programs use the maps of its lowest bit */
	__u32 clearing;  /* the reader's: 1 + parity of the set that is being emptied, 0 when none is */
	__u32 sampled;   /* whether any tap is, in an epoch of either parity */
	__be16 dns_port; /* 0: nobody asks for it */
	__u16 pad;
};

/* A TCP handshake under way: when the pod sent its SYN or SYN-ACK. */
struct handshake_key {
	__u32 src[4];
	__u32 dst[4];
	__be16 sport;
	__be16 dport;
	__u16 tap;
	__u16 outer;
	__u16 inner;
	__u16 pad;
};

/* A question to a name server that is not answered yet. */
struct dns_key {
	__u32 client[4];
	__u32 server[4];
	__be16 client_port;
	__be16 server_port;
	__be16 id;
	__u16 tap;
	__u16 outer;
	__u16 inner;
	__u8 protocol;
	__u8 kind;
	__u8 direction; /* of the question */
	__u8 pad;
};

struct dns_question {
	__u64 since; /* CLOCK_MONOTONIC, nanoseconds: when it was asked first */
	__u32 asked; /* times */
	__u32 pad;
};

/* One that was answered. */
struct dns_answer {
	struct flow_key key; /* the answer's */
	__u64 at;            /* CLOCK_MONOTONIC, nanoseconds */
	__u64 latency;       /* nanoseconds */
	__u32 asked;
	__be16 id;
	__u16 code; /* RCODE, 0-15 */
};

#endif
