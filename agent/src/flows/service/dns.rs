//! Questions to name servers: read every second, and told to exporters, metrics and the table.
//!
//! A record is of the question's flow, whichever of the two the kernel remembered: its source is who asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use trunkline_ebpf::{DnsQueries, DnsQuery, FlowKey, Reader};

use super::Inner;
use super::told::{Clock, other_side};
use crate::cli::chain;
use crate::flows::owner::OwnerGone;
use crate::flows::record::{DnsRecord, Record};
use crate::metrics::DnsLabels;

/// How often questions are read: the kernel keeps what came in a second or two.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Has questions to this port followed from now on; says whether they are. Without them, flows are still counted.
pub(super) fn follow(reader: &mut Reader, port: Option<u16>) -> bool {
    match reader.follow_dns(port) {
        Ok(()) => port.is_some(),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "questions to name servers cannot be followed");
            false
        }
    }
}

impl Inner {
    /// What became of questions since the last look.
    pub(super) async fn read_dns(&self) -> Result<(), OwnerGone> {
        match self.reader.run(Reader::dns).await? {
            Ok(found) => {
                self.dns_failing.store(false, Ordering::Relaxed);
                self.take_in_dns(&found);
            }
            Err(error) if !self.dns_failing.swap(true, Ordering::Relaxed) => {
                let error = chain(&error);
                tracing::warn!(%error, "questions to name servers cannot be read, will try again every second");
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn take_in_dns(&self, found: &DnsQueries) {
        self.options.metrics.add_lost_dns(found.lost);
        if found.queries.is_empty() {
            return;
        }
        let records = self.dns_records(&found.queries);
        for record in &records {
            if let Some(labels) = labels(record) {
                self.options.metrics.add_dns(
                    labels,
                    &record.code(),
                    record.answer.map(|answer| answer.latency),
                );
            }
        }
        let records: Vec<_> = records.into_iter().map(|record| Arc::new(Record::Dns(record))).collect();
        self.exporters.offer(&records);
        let mut state = self.state();
        found.queries.iter().for_each(|query| state.table.tell_of_question(&query.key, query.answer));
    }

    fn dns_records(&self, queries: &[DnsQuery]) -> Vec<DnsRecord> {
        let clock = Clock::now();
        let known = self.taps.known();
        let allocations = self.allocations();
        let names = allocations.names();
        let record = |query: &DnsQuery| {
            let tap = known.owner(query.key.slot())?;
            let (key, at) = (question(query), clock.wall(query.at));
            // Nobody has kept the Ethernet addresses: a peer is known by its IP address or not at all.
            let (address, _) = other_side(&key.conversation(), key.direction(), [[0; 6]; 2]);
            let peer = names.peer(&tap, address, None, at);
            Some(DnsRecord { tap, peer, key, at, id: query.id, asked: query.asked, answer: query.answer })
        };
        queries.iter().filter_map(record).collect()
    }
}

/// The flow of the question.
fn question(query: &DnsQuery) -> FlowKey {
    let turned = query.answer.and_then(|_| query.key.reversed());
    turned.unwrap_or(query.key)
}

/// Of a network's taps alone.
fn labels(record: &DnsRecord) -> Option<DnsLabels> {
    let tap = &record.tap;
    Some(DnsLabels {
        network: tap.network.clone()?,
        vlan: tap.vlan.map_or(0, u16::from),
        direction: record.key.direction().name(),
    })
}

#[cfg(test)]
mod tests {
    use trunkline_ebpf::{Conversation, Direction, DnsAnswer, Slot};

    use super::*;

    #[test]
    fn a_record_is_of_the_questions_flow_whether_it_was_answered_or_not() {
        let [client, server] = [[192, 0, 2, 1].into(), [192, 0, 2, 53].into()];
        let asks = Conversation::Ip { src: client, dst: server, protocol: 17, src_port: 4000, dst_port: 53 };
        let asked = FlowKey::new(Slot(1), Direction::Sent, [None, None], asks);
        let answer = Some(DnsAnswer { code: 0, latency: Duration::from_millis(1) });
        let query = |key, answer| DnsQuery { key, id: 1, at: 0, asked: 1, answer };
        assert_eq!(question(&query(asked, None)), asked);
        let answered = asked.reversed().expect("IP");
        assert_eq!(answered.direction(), Direction::Received);
        assert_eq!(question(&query(answered, answer)), asked);
    }
}
