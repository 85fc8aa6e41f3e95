//! Both clients against a real ovsdb-server and ovs-vswitchd (userspace datapath), each test in a run directory and a
//! network namespace of its own. Skipped, loudly, where no Open vSwitch is to be had; a failure under `CI=true`.

mod burst;
mod openflow;
mod ovsdb;
mod switch;
