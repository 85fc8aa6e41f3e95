//! `manifests/` as users apply it, minus what light nodes run as plain processes.
//!
//! Renders with kubectl's kustomize and applies on the server's side; never edits a manifest.

use std::fs;

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::Value;

use crate::control_plane::ControlPlane;
use crate::run::Run;
use crate::wait;

/// Kinds that light nodes have as processes, and the configuration that each node has as a file.
const NOT_FOR_LIGHT: [&str; 3] = ["DaemonSet", "Deployment", "ConfigMap"];

/// Applies namespace, CRDs, RBAC and admission policies, and waits until the CRDs are served.
pub fn apply_for_light(run: &Run, plane: &ControlPlane) -> Result<()> {
    let dir = run.data("kustomize")?;
    // kustomize takes folders by relative path only; this one lies four below the workspace.
    let text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
                resources: [../../../../manifests/base]\n\
                components: [../../../../manifests/components/crds-shared]\n";
    fs::write(dir.join("kustomization.yaml"), text).context("writing a kustomization")?;
    let all = plane.kubectl(&["kustomize", &dir.display().to_string()])?;
    let mut wanted = Vec::new();
    for document in serde_norway::Deserializer::from_str(&all) {
        let value = Value::deserialize(document).context("reading the rendered manifests")?;
        if !NOT_FOR_LIGHT.iter().any(|kind| value["kind"] == *kind) {
            wanted.push(value);
        }
    }
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": wanted});
    plane.apply(&list.to_string())?;
    let limit = format!("{}s", 30 * wait::patience());
    plane.kubectl(&["wait", "--for", "condition=established", "crd", "--all", "--timeout", &limit])?;
    Ok(())
}
