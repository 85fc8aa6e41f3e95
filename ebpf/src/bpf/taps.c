// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0
/* The taps: count every frame of an interface, by tap and by flow. Never change, never drop, never decide: the
 * verdict is TCX_NEXT (== TC_ACT_UNSPEC). The one exception is tap_ingress_guarded, which says so in its name.
 *
 * Exactness. A program reads the epoch once and uses that epoch's flow map and counters only. The reader flips the
 * epoch, waits until no program that saw the old one can still run, and then has the old set for itself. So for
 * every closed epoch, per tap and direction: flows + lost = counters.
 *
 * Sampling. A frame of a sampled tap is counted by its tap like any other, and goes on to the flows by chance. The rate
 * goes with the epoch's parity, so all flows of an epoch are to be scaled by the same.
 *
 * No lock and no atomic operation: the processor's number is in the flow key, and counters are per processor. TC
 * programs run with bottom halves off, so none interrupts another on its own processor. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "layout.h"
#include "parse.h"

#define NEXT TC_ACT_UNSPEC

#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define HANDSHAKE_LIFETIME 60000000000ULL /* ns: an older one was never answered */

/* The slot of the one tap that a copy of the programs serves, plus one; 0: found by the interface's index. */
volatile const __u32 own_slot = 0;
volatile const __u32 own_flags = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_control SEC(".maps");

/* Places of each processor's front table, less one: a power of two, less one. */
volatile const __u32 front_mask = 0;

/* The front tables, of each processor one for both parities. A flow whose place is free takes it, and is then found by
 * a cheap hash and one comparison; one whose place another flow has goes to the hash map. A place is never given up
 * within an epoch, so a flow is in one of the two only. Of no kind that is kept per processor: these the reader could
 * not share, and would have to copy by system calls. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct front);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_front SEC(".maps");

/* Taps on the node's own interfaces, by interface index. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct tap);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_taps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tap_counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_flows_0 SEC(".maps"), tl_flows_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct handshake_key);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_handshakes SEC(".maps");

/* The counters as the reader last took them, so that a closed epoch can be checked by whoever reads it next. The
 * programs do not use it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct tap_counters);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_drained SEC(".maps");

/* One frame in so many goes on to the flows: by slot << 1 | parity of the epoch. 0 and 1: every one. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_sampling SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct dns_key);
	__type(value, struct dns_question);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_dns_asked SEC(".maps");

/* Of struct dns_answer. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 131072);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_dns SEC(".maps");

/* Answers for which there was no room. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_dns_lost SEC(".maps");

/* What tl_taps has of the first 65,536 indices, without a hash. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NEAR);
	__type(key, __u32);
	__type(value, struct tap);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tl_near SEC(".maps");

static __always_inline struct flow_value *find(__u32 parity, const struct flow_key *key)
{
	if (parity)
		return bpf_map_lookup_elem(&tl_flows_1, key);
	return bpf_map_lookup_elem(&tl_flows_0, key);
}

static __always_inline long insert(__u32 parity, const struct flow_key *key, const struct flow_value *value)
{
	if (parity)
		return bpf_map_update_elem(&tl_flows_1, key, value, BPF_NOEXIST);
	return bpf_map_update_elem(&tl_flows_0, key, value, BPF_NOEXIST);
}

/* Six words of a key, each times an odd number of its own: enough to spread flows, and no more is needed. */
static __always_inline __u32 front_place(const struct flow_key *key)
{
	const __u64 *word = (const __u64 *)key;
	__u64 hash = word[0] * 0x9e3779b97f4a7c15ULL + word[1] * 0xc2b2ae3d27d4eb4fULL +
		     word[2] * 0x165667b19e3779f9ULL + word[3] * 0x27d4eb2f165667c5ULL +
		     word[4] * 0x85ebca77c2b2ae63ULL + word[5] * 0xd6e8feb86659fd93ULL;

	return (hash >> 40) & front_mask;
}

static __always_inline int same_key(const struct flow_key *one, const struct flow_key *other)
{
	const __u64 *a = (const __u64 *)one, *b = (const __u64 *)other;

	return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]));
}

/* The round trip of a handshake, from what the pod sent to the answer that it received: SYN to SYN-ACK where the
 * pod called, SYN-ACK to ACK where it was called. 0 where this packet ends none, or a repeated SYN made it
 * ambiguous (Karn). */
static __noinline __u32 round_trip(const struct flow_key *flow, __u32 flags)
{
	struct handshake_key key = {};
	__u64 now, *since;
	__u32 rtt = 0;

	if (!flow)
		return 0;
	key.tap = flow->tap;
	key.outer = flow->outer;
	key.inner = flow->inner;
	if (flow->direction == SENT) {
		__u64 start;

		__builtin_memcpy(key.src, flow->src, sizeof(key.src));
		__builtin_memcpy(key.dst, flow->dst, sizeof(key.dst));
		key.sport = flow->sport;
		key.dport = flow->dport;
		start = bpf_ktime_get_ns();
		since = bpf_map_lookup_elem(&tl_handshakes, &key);
		if (since && *since && start - *since < HANDSHAKE_LIFETIME)
			start = 0;
		bpf_map_update_elem(&tl_handshakes, &key, &start, BPF_ANY);
		return 0;
	}
	__builtin_memcpy(key.src, flow->dst, sizeof(key.src));
	__builtin_memcpy(key.dst, flow->src, sizeof(key.dst));
	key.sport = flow->dport;
	key.dport = flow->sport;
	since = bpf_map_lookup_elem(&tl_handshakes, &key);
	if (!since)
		return 0;
	now = bpf_ktime_get_ns();
	if (*since && now - *since < 0xffffffff)
		rtt = now - *since;
	bpf_map_delete_elem(&tl_handshakes, &key);
	return rtt;
}

/* Whether this packet begins or ends a leg of a handshake. Cheap: true for a few packets of a connection. */
static __always_inline int of_handshake(__u8 direction, __u16 flags, __u16 seen_before)
{
	if (direction == SENT)
		return flags & TCP_SYN;
	return (flags & TCP_ACK) && !(seen_before & TCP_ACK);
}

/* A question to a name server, or the answer to one that was seen: latency and RCODE of each. `at`: where the message
 * begins, over TCP with its length. Over TCP only a message that has the segment to itself is taken for one: the bytes
 * in the middle of another may look like anything. An answer nobody asked for is none. */
static __noinline void name_service(struct __sk_buff *skb, const struct flow_key *flow, __u32 at, __u32 end,
				    __be16 port)
{
	struct dns message = {};
	struct dns_question *asked, question = { .asked = 1 };
	struct dns_answer answer = {};
	struct dns_key key = {};
	__u32 length, zero = 0;
	__u16 flags;

	if (!flow)
		return;
	if (end > skb->len)
		end = skb->len;
	length = end - at;
	if (end < at)
		return;
	if (flow->protocol == IPPROTO_TCP) {
		if (length < DNS_HEADER + 2 || bpf_skb_load_bytes(skb, at, &message, sizeof(message)) ||
		    bpf_ntohs(message.length) != length - 2)
			return;
	} else if (length < DNS_HEADER || bpf_skb_load_bytes(skb, at, &message.id, 4)) {
		return;
	}
	flags = bpf_ntohs(message.flags);
	if (flags & DNS_OPCODE)
		return;
	key.tap = flow->tap;
	key.outer = flow->outer;
	key.inner = flow->inner;
	key.protocol = flow->protocol;
	key.kind = flow->kind;
	key.id = message.id;
	if (!(flags & DNS_ANSWER)) {
		if (flow->dport != port)
			return;
		key.direction = flow->direction;
		__builtin_memcpy(key.client, flow->src, sizeof(key.client));
		__builtin_memcpy(key.server, flow->dst, sizeof(key.server));
		key.client_port = flow->sport;
		key.server_port = flow->dport;
		asked = bpf_map_lookup_elem(&tl_dns_asked, &key);
		if (asked) {
			asked->asked += 1;
			return;
		}
		question.since = bpf_ktime_get_ns();
		bpf_map_update_elem(&tl_dns_asked, &key, &question, BPF_ANY);
		return;
	}
	if (flow->sport != port)
		return;
	key.direction = !flow->direction;
	__builtin_memcpy(key.client, flow->dst, sizeof(key.client));
	__builtin_memcpy(key.server, flow->src, sizeof(key.server));
	key.client_port = flow->dport;
	key.server_port = flow->sport;
	asked = bpf_map_lookup_elem(&tl_dns_asked, &key);
	if (!asked)
		return;
	answer.at = bpf_ktime_get_ns();
	answer.latency = answer.at - asked->since;
	answer.asked = asked->asked;
	if (bpf_map_delete_elem(&tl_dns_asked, &key))
		return; /* another answer came first */
	answer.key = *flow;
	answer.key.cpu = 0;
	answer.id = message.id;
	answer.code = flags & DNS_RCODE;
	if (bpf_ringbuf_output(&tl_dns, &answer, sizeof(answer), BPF_RB_NO_WAKEUP)) {
		__u64 *lost = bpf_map_lookup_elem(&tl_dns_lost, &zero);

		if (lost)
			*lost += 1;
	}
}

/* Whether what follows may be a question to this port, or an answer from it. */
static __always_inline int of_name_service(const struct flow_key *key, __be16 port)
{
	return port && (key->sport == port || key->dport == port) &&
	       (key->protocol == IPPROTO_UDP || key->protocol == IPPROTO_TCP) &&
	       (key->kind == KIND_IPV4 || key->kind == KIND_IPV6) && !key->marks;
}

static __always_inline int observe(struct __sk_buff *skb, __u32 leaving_device)
{
	struct flow_key key __attribute__((aligned(8))) = {};
	struct about about = {};
	struct flow_value *flow;
	struct front *front;
	struct tap_counters *counters;
	struct control *control;
	__u32 zero = 0, sampled = 0, passed_over = 0, flags, parity, index, length, segments, wire, *rate;
	__u32 now;

	if (own_slot) {
		key.tap = own_slot - 1;
		flags = own_flags;
	} else {
		__u32 ifindex = skb->ifindex;
		struct tap *tap = bpf_map_lookup_elem(&tl_near, &ifindex);

		if (!tap || !(tap->flags & TAP_KNOWN))
			tap = bpf_map_lookup_elem(&tl_taps, &ifindex);
		if (!tap)
			return NEXT;
		key.tap = tap->slot;
		flags = tap->flags;
	}
	key.direction = (flags & TAP_HOST_SIDE) ? !leaving_device : leaving_device;
	key.cpu = bpf_get_smp_processor_id();
	control = bpf_map_lookup_elem(&tl_control, &zero);
	if (!control)
		return NEXT;
	parity = *(volatile __u32 *)&control->epoch & 1;
	if (control->sampled) {
		index = ((__u32)key.tap << 1) | parity;
		rate = bpf_map_lookup_elem(&tl_sampling, &index);
		if (rate && *rate > 1) {
			sampled = 1;
			passed_over = bpf_get_prandom_u32() > ~0U / *rate;
		}
	}
	/* What a frame is only counted for does not matter, but how often its headers go over the wire. */
	if (!passed_over || skb->gso_size)
		parse(skb, !(flags & TAP_NO_ETHERNET), &key, &about);

	length = skb->len;
	segments = 1;
	if (skb->gso_size) {
		segments = skb->gso_segs;
		if (!segments && length > about.headers)
			segments = (length - about.headers + skb->gso_size - 1) / skb->gso_size;
		if (!segments)
			segments = 1;
	}
	wire = length + (segments - 1) * about.headers;
	if (skb->vlan_present)
		wire += segments * 4;

	index = ((__u32)key.tap << 2) | (key.direction << 1) | parity;
	counters = bpf_map_lookup_elem(&tl_counters, &index);
	if (!counters)
		return NEXT;
	counters->skbs += 1;
	counters->bytes += length;
	counters->packets += segments;
	counters->wire_bytes += wire;
	if (passed_over)
		return NEXT;

	/* What is measured between two packets needs both. */
	if (!sampled && of_name_service(&key, control->dns_port))
		name_service(skb, &key, about.headers, about.end, control->dns_port);
	now = bpf_jiffies64();
	index = (((__u32)key.cpu << 1) | parity) * (front_mask + 1) + front_place(&key);
	front = bpf_map_lookup_elem(&tl_front, &index);
	flow = (struct flow_value *)0;
	/* A processor beyond those that were counted has no table. */
	if (!front || (front->value.skbs && !same_key(&front->key, &key)))
		flow = find(parity, &key);
	else if (front->value.skbs)
		flow = &front->value;
	if (flow) {
		flow->skbs += 1;
		flow->bytes += length;
		flow->packets += segments;
		flow->wire_bytes += wire;
		flow->lasted = now - flow->born;
		flow->seen |= about.seen;
		if (about.tcp_flags) {
			if (!sampled && of_handshake(key.direction, about.tcp_flags, flow->tcp_flags)) {
				__u32 rtt = round_trip(&key, about.tcp_flags);

				if (rtt)
					flow->rtt = rtt;
			}
			flow->tcp_flags |= about.tcp_flags;
		}
		return NEXT;
	}

	struct flow_value value = {
		.skbs = 1,
		.bytes = length,
		.packets = segments,
		.wire_bytes = wire,
		.first = bpf_ktime_get_coarse_ns(),
		.born = now,
		.tcp_flags = about.tcp_flags,
		.tos = about.tos,
		.seen = about.seen,
	};
	if (!(flags & TAP_NO_ETHERNET))
		read_macs(skb, value.dst_mac, value.src_mac);
	if (!sampled && about.tcp_flags && of_handshake(key.direction, about.tcp_flags, 0))
		value.rtt = round_trip(&key, about.tcp_flags);
	if (front && !front->value.skbs) {
		front->key = key;
		front->value = value;
		return NEXT;
	}
	if (insert(parity, &key, &value)) {
		counters->lost_skbs += 1;
		counters->lost_bytes += length;
		counters->lost_packets += segments;
		counters->lost_wire_bytes += wire;
	}
	return NEXT;
}

/* What the device receives. */
SEC("classifier") int tap_ingress(struct __sk_buff *skb)
{
	return observe(skb, 0);
}

/* What the device sends. */
SEC("classifier") int tap_egress(struct __sk_buff *skb)
{
	return observe(skb, 1);
}

/* As tap_ingress, on a pod's port of a userspace bridge: the switch has its copy from its packet socket before this
 * runs, and the node's own stack must not have the frame. One program and not two behind each other: every attached
 * program costs the attaching a grace period of the kernel. */
SEC("classifier") int tap_ingress_guarded(struct __sk_buff *skb)
{
	observe(skb, 0);
	return TC_ACT_SHOT;
}

/* What every program costs that does nothing: the floor of measurements. Never attached. */
SEC("classifier") int nothing(struct __sk_buff *skb)
{
	return NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
