//! Network links of the node and of pods: veth pairs, uplinks, what the kernel knows of them.
//!
//! Owns every rtnetlink message of the agent. Decides nothing: which link, address, MTU or offload is wanted comes
//! from the caller. Must never touch a link that its caller did not name.

mod inspect;
mod message;
mod pod;
mod socket;
mod stream;
mod types;
mod uplink;
mod watch;

pub use inspect::{inspect_links, list_host_links};
pub use pod::{configure_pod_end, create_pod_pair, delete_host_link, pod_link_exists};
pub use stream::{LinkForm, LinkNews, LinkSeen, LinkStream};
pub use types::{
    LinkError, LinkEvent, LinkFacts, LinkStep, MacOctets, OffloadSet, Place, PodEndSpec, PodLink,
    PodPairSpec, PodRoute,
};
pub use uplink::{UPLINK_FEATURES, set_link_up, set_uplink_offloads};
pub use watch::LinkWatch;
