// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0
/* For tests: moves a frame's outermost tag to where a network card would put it, skb->vlan_tci, and then runs the
 * tap. And the program that does nothing, whose cost is the floor of every measurement. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

volatile const __u32 tag_protocol = 0x8100;
volatile const __u32 tag_tci = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} next SEC(".maps");

SEC("classifier") int push_tag(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(tag_protocol), tag_tci))
		return TC_ACT_SHOT;
	bpf_tail_call(skb, &next, 0);
	return TC_ACT_SHOT; /* no tail call: a verdict that no tap gives */
}

SEC("classifier") int nothing(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
