//! The `NetworkAttachmentDefinition` object, `k8s.cni.cncf.io/v1` (NPWG specification 1.3, section 3).
//!
//! Owns its outer shape only, as lenient as the community's CRD; what `spec.config` means is [`crate::nad_config`]'s.

use std::borrow::Cow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{NamespaceResourceScope, Resource};
use serde::{Deserialize, Serialize};

/// A network that pods may ask for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttachmentDefinition {
    /// Always `k8s.cni.cncf.io/v1`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// Always `NetworkAttachmentDefinition`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The network; absent is legal, and means a configuration on the node's disk to others.
    #[serde(default)]
    pub spec: NetworkAttachmentDefinitionSpec,
}

/// The network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttachmentDefinitionSpec {
    /// A CNI configuration as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

const GROUP: &str = "k8s.cni.cncf.io";
const VERSION: &str = "v1";
const API_VERSION: &str = "k8s.cni.cncf.io/v1";
const KIND: &str = "NetworkAttachmentDefinition";
const PLURAL: &str = "network-attachment-definitions";

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn kind() -> String {
    KIND.to_owned()
}

impl NetworkAttachmentDefinition {
    /// A definition with this name and configuration, in no namespace yet.
    pub fn new(name: &str, config: Option<String>) -> Self {
        Self {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: NetworkAttachmentDefinitionSpec { config },
        }
    }

    /// The community's CRD, so that a cluster without Multus has it too.
    pub fn crd() -> CustomResourceDefinition {
        let description =
            "A network that pods may ask for (Network Plumbing Working Group, specification 1.3).";
        serde_json::from_value(serde_json::json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{PLURAL}.{GROUP}") },
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": KIND,
                    "plural": PLURAL,
                    "singular": "network-attachment-definition",
                    "shortNames": ["net-attach-def"],
                },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "schema": { "openAPIV3Schema": {
                        "description": description,
                        "type": "object",
                        "properties": {
                            "apiVersion": { "type": "string" },
                            "kind": { "type": "string" },
                            "metadata": { "type": "object" },
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "config": {
                                        "description": "A CNI configuration as JSON text.",
                                        "type": "string",
                                    },
                                },
                            },
                        },
                    }},
                }],
            },
        }))
        .expect("the literal above has the shape of a CustomResourceDefinition")
    }
}

impl Resource for NetworkAttachmentDefinition {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests;
