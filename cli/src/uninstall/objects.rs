//! Trunkline's objects in the API server, and taking them away.
//!
//! Owns their kinds: everything that the base manifests make carries `app.kubernetes.io/part-of: trunkline`. Must never
//! delete an object without that label, nor a CRD of a group that is not ours.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, CustomResourceExt as _, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use trunkline_api::{IPAllocation, IPPool, POOL_FINALIZER};

use super::{AGENT, OVS, claimed, say, wait};
use crate::source::Cluster;

/// The controllers' Deployment, and the value of its pods' name label.
pub(super) const CONTROLLER: &str = "trunkline-controller";
/// What the base manifests put on everything they make.
const PART: &str = "app.kubernetes.io/part-of=trunkline";
/// End of the API groups that are ours.
const OUR_GROUPS: &str = "trunkline.io";

/// Deletes the controllers, which would otherwise put finalizers back.
pub(super) async fn delete_controller(cluster: &Cluster) -> anyhow::Result<()> {
    let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    delete(&api, CONTROLLER).await
}

/// Deletes everything that is Trunkline's, once the nodes are clean.
pub(super) async fn delete_all(cluster: &Cluster, patience: Duration) -> anyhow::Result<()> {
    let client = &cluster.client;
    let daemon_sets: Api<DaemonSet> = Api::namespaced(client.clone(), &cluster.namespace);
    for name in [AGENT, OVS] {
        delete(&daemon_sets, name).await?;
    }
    delete_controller(cluster).await?;
    release_pools(client).await?;
    delete_crds(client, patience).await?;
    // The policies first: they judge accounts that are about to go.
    delete_ours::<ValidatingAdmissionPolicyBinding>(client).await?;
    delete_ours::<ValidatingAdmissionPolicy>(client).await?;
    delete_ours::<ClusterRoleBinding>(client).await?;
    delete_ours::<ClusterRole>(client).await?;
    delete_ours_everywhere::<RoleBinding>(client, &cluster.namespace).await?;
    delete_ours_everywhere::<Role>(client, &cluster.namespace).await?;
    delete_namespace(client, &cluster.namespace, patience).await
}

/// Deletes the namespace if the manifests made it: a flag may have named another.
async fn delete_namespace(client: &Client, name: &str, patience: Duration) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(found) = namespaces.get_opt(name).await.context("cannot get the namespace")? else {
        return Ok(());
    };
    let (key, value) = PART.split_once('=').expect("the selector above has an equals sign");
    if found.labels().get(key).is_none_or(|label| label != value) {
        say(&format!("namespace {name} does not carry {PART} and stays"));
        return Ok(());
    }
    delete(&namespaces, name).await?;
    wait::until_none("namespaces", patience, || async {
        Ok(namespaces.get_opt(name).await?.map(|found| found.name_any()).into_iter().collect())
    })
    .await
}

/// Takes our finalizer off every pool; the pools stay.
async fn release_pools(client: &Client) -> anyhow::Result<()> {
    let pools: Api<IPPool> = Api::all(client.clone());
    let found = match pools.list_metadata(&ListParams::default()).await {
        // No such CRD: nothing to release.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        other => other.context("cannot list IPPools")?.items,
    };
    let mut released = 0;
    for pool in found.iter().filter(|pool| pool.finalizers().iter().any(|name| name == POOL_FINALIZER)) {
        let kept: Vec<&String> = pool.finalizers().iter().filter(|name| *name != POOL_FINALIZER).collect();
        // The version makes it fail rather than undo another's change; a second run sees the new list.
        let patch = json!({ "metadata": { "resourceVersion": pool.resource_version(), "finalizers": kept } });
        let name = pool.name_any();
        let patched = pools.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.with_context(|| format!("cannot take the finalizer off IPPool {name}"))?;
        released += 1;
    }
    say(&format!("finalizer taken off {released} IPPools"));
    Ok(())
}

/// Deletes the CRDs of our own groups, and with them every claimed address.
async fn delete_crds(client: &Client, patience: Duration) -> anyhow::Result<()> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let ours = || async {
        let all = crds.list(&ListParams::default()).await.context("cannot list CRDs")?.items;
        let ours = all
            .iter()
            .filter(|crd| crd.spec.group == OUR_GROUPS || crd.spec.group.ends_with(".trunkline.io"));
        Ok(ours.map(kube::ResourceExt::name_any).collect::<Vec<String>>())
    };
    let names = ours().await?;
    if names.iter().any(|name| name == IPAllocation::crd_name()) {
        let count = claimed(client).await.context("cannot count IPAllocations")?;
        say(&format!("{count} claimed addresses go with their CRD"));
    }
    for name in names {
        delete(&crds, &name).await?;
    }
    wait::until_none("CRDs", patience, ours).await
}

async fn delete_ours<K>(client: &Client) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let found = api.list_metadata(&ListParams::default().labels(PART)).await;
    for object in found.with_context(|| format!("cannot list {}", K::plural(&())))?.items {
        delete(&api, &object.name_any()).await?;
    }
    Ok(())
}

/// The namespace takes its own objects along; ours in others' namespaces go by name.
async fn delete_ours_everywhere<K>(client: &Client, but: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let all: Api<K> = Api::all(client.clone());
    let found = all.list_metadata(&ListParams::default().labels(PART)).await;
    for object in found.with_context(|| format!("cannot list {}", K::plural(&())))?.items {
        let namespace = object.namespace().unwrap_or_default();
        if namespace != but {
            delete(&Api::<K>::namespaced(client.clone(), &namespace), &object.name_any()).await?;
        }
    }
    Ok(())
}

/// Deletes one object; one that is gone already is a success.
async fn delete<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => say(&format!("deleted {} {name}", K::kind(&()))),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error).with_context(|| format!("cannot delete {} {name}", K::kind(&()))),
    }
    Ok(())
}
