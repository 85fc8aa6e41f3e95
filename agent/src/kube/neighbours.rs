//! Is somebody else in this cluster doing what we do: Antrea with the same gates on (design decision 17).
//!
//! Owns the check that is made once, at the start. Must never fail because it could not look.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use thiserror::Error;
use tracing::{debug, warn};

/// Where Antrea keeps its configuration.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "antrea-config";
/// Gates of Antrea that would do the same work, on the same objects, as ours.
const GATES: [&str; 2] = ["SecondaryNetwork", "AntreaIPAM"];
/// The start does not wait longer for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Antrea does our work already.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "Antrea runs in this cluster with the feature gate {gate} on (ConfigMap {NAMESPACE}/{CONFIG_MAP}, key {key}); \
     set {gate}: false there, or do not run Trunkline"
)]
pub struct Conflict {
    /// The gate that is on.
    pub gate: &'static str,
    /// Key of the `ConfigMap` that has it.
    pub key: String,
}

/// Looks for Antrea's configuration; one that cannot be read, or is absent, is no conflict.
pub async fn check(client: Client) -> Result<(), Conflict> {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    match tokio::time::timeout(PATIENCE, api.get_opt(CONFIG_MAP)).await {
        Ok(Ok(Some(map))) => conflict(&map).map_or(Ok(()), Err),
        Ok(Ok(None)) => Ok(()),
        Ok(Err(error)) => {
            debug!(%error, "antrea's configuration is not readable");
            Ok(())
        }
        Err(_) => {
            warn!("the API server did not say in time whether Antrea runs here");
            Ok(())
        }
    }
}

fn conflict(map: &ConfigMap) -> Option<Conflict> {
    let data = map.data.iter().flatten();
    data.filter(|(key, _)| key.starts_with("antrea-")).find_map(|(key, text)| {
        let gate = GATES.into_iter().find(|gate| is_on(text, gate))?;
        Some(Conflict { gate, key: key.clone() })
    })
}

/// Is `gate: true` said under `featureGates:`; another program's file, so nothing else in it is judged.
fn is_on(text: &str, gate: &str) -> bool {
    let mut inside = false;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if line.trim().is_empty() {
            continue;
        }
        if !line.starts_with(char::is_whitespace) {
            inside = line.starts_with("featureGates:");
            continue;
        }
        let said = line.trim().split_once(':').map(|(key, value)| (key.trim(), value.trim()));
        if inside && said == Some((gate, "true")) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_on_only_where_it_is_said_under_feature_gates() {
        for (text, on) in [
            ("featureGates:\n  SecondaryNetwork: true\n", true),
            ("featureGates:\n# comment\n  Traceflow: true\n\n  SecondaryNetwork: true # yes\n", true),
            ("featureGates:\n  SecondaryNetwork: false\n", false),
            ("featureGates:\n#  SecondaryNetwork: true\n", false),
            ("other:\n  SecondaryNetwork: true\n", false),
            ("featureGates:\n  A: true\nother:\n  SecondaryNetwork: true\n", false),
            ("", false),
        ] {
            assert_eq!(is_on(text, "SecondaryNetwork"), on, "{text}");
        }
    }

    #[test]
    fn the_conflict_names_gate_and_key() {
        let text = "featureGates:\n  AntreaIPAM: true\n";
        let data = [("antrea-controller.conf".to_owned(), text.to_owned())].into();
        let conflict = conflict(&ConfigMap { data: Some(data), ..ConfigMap::default() }).expect("a conflict");
        assert_eq!(conflict.gate, "AntreaIPAM");
        assert!(conflict.to_string().contains("antrea-controller.conf"));
    }
}
