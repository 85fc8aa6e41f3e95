//! Whether Antrea already does our work in this cluster.
//!
//! Owns reading its configuration, leniently: it is somebody else's. Must never write it.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use serde::Deserialize;

/// Antrea's `ConfigMap`, in `kube-system`.
const CONFIG_MAP: &str = "antrea-config";
/// Gates under which Antrea does what we do.
const GATES: [&str; 2] = ["SecondaryNetwork", "AntreaIPAM"];

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default, rename = "featureGates")]
    gates: Option<std::collections::BTreeMap<String, serde_norway::Value>>,
}

/// A gate of Antrea's that collides with us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Antrea runs here with feature gate {gate} on (key {key} of ConfigMap kube-system/{CONFIG_MAP}): \
     both would serve the same networks; turn it off there, or do not run Trunkline"
)]
pub struct Collision {
    /// The gate.
    pub gate: &'static str,
    /// The key of the `ConfigMap`.
    pub key: String,
}

/// Finds a colliding gate in Antrea's configuration.
pub fn collision(config: &ConfigMap) -> Option<Collision> {
    config.data.iter().flatten().find_map(|(key, text)| {
        let config: Config = serde_norway::from_str(text).unwrap_or_default();
        let gates = config.gates?;
        let on = |gate: &&&str| gates.get(**gate).and_then(serde_norway::Value::as_bool) == Some(true);
        GATES.iter().find(on).map(|gate| Collision { gate, key: key.clone() })
    })
}

/// Asks the cluster. Not being allowed to read is taken for there being no Antrea, with a warning.
pub async fn check(client: Client) -> Result<Option<Collision>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    match api.get_opt(CONFIG_MAP).await {
        Ok(config) => Ok(config.as_ref().and_then(collision)),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            tracing::warn!(
                "may not read ConfigMap kube-system/{CONFIG_MAP}: whether Antrea runs here is not known"
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gates_that_collide_and_are_on_count() {
        let agent = "antrea-agent.conf";
        for (text, expected) in [
            ("featureGates:\n  SecondaryNetwork: true\n", Some("SecondaryNetwork")),
            ("featureGates:\n  AntreaIPAM: true\nother: 1\n", Some("AntreaIPAM")),
            ("featureGates:\n  SecondaryNetwork: false\n  Egress: true\n", None),
            ("featureGates:\n#  SecondaryNetwork: true\n", None),
            ("featureGates:\n  SecondaryNetwork: \"true\"\n", None),
            ("", None),
            (": not yaml [", None),
        ] {
            let data = std::collections::BTreeMap::from([(agent.to_owned(), text.to_owned())]);
            let config = ConfigMap { data: Some(data), ..ConfigMap::default() };
            let found = collision(&config);
            assert_eq!(found.as_ref().map(|found| found.gate), expected, "{text}");
        }
    }
}
