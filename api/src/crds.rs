//! The custom resource definitions as they are installed.
//!
//! Owns what the derived schemas cannot say. Must never write a file: `cargo xtask crds` does.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::crd::CustomResourceExt as _;

use crate::pool::MAX_POOL_NAME;
use crate::{IPAllocation, IPPool, NetworkAttachmentDefinition};

/// Every CRD that Trunkline reads or writes; only `IPAllocation` is our own group's.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        // A bound on names is what keeps rules that read them within the API server's cost limit.
        bound_name(IPAllocation::crd(), 253),
        bound_name(IPPool::crd(), MAX_POOL_NAME),
        NetworkAttachmentDefinition::crd(),
    ]
}

fn bound_name(crd: CustomResourceDefinition, most: usize) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CRD is plain data");
    let name = serde_json::json!({ "type": "string", "maxLength": most });
    value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["metadata"] =
        serde_json::json!({ "type": "object", "properties": { "name": name } });
    serde_json::from_value(value).expect("a CRD with one more property is a CRD")
}
