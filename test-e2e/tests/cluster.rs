//! Two real nodes with kubelet and containerd: what light nodes cannot show.

use trunkline_e2e::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_ready() {
    let cluster = Cluster::start("cluster").await.expect("a cluster");
    if std::env::var_os("KEEP").is_some() {
        cluster.run.keep().expect("kept");
        eprintln!("{}", cluster.plane.kubeconfig().display());
    }
}
