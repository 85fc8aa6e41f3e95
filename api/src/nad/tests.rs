//! Leniency towards other people's objects.

use super::*;

#[test]
fn a_definition_without_spec_or_config_is_read() {
    for text in [
        r#"{"metadata": {"name": "a"}}"#,
        r#"{"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": "a"}, "spec": {}}"#,
        r#"{"metadata": {"name": "a"}, "spec": {"config": null, "other": 1}}"#,
    ] {
        let nad: NetworkAttachmentDefinition = serde_json::from_str(text).expect(text);
        assert_eq!(nad, NetworkAttachmentDefinition::new("a", None), "{text}");
    }
}

#[test]
fn the_crd_is_the_communitys() {
    let crd = NetworkAttachmentDefinition::crd();
    assert_eq!(crd.metadata.name.as_deref(), Some("network-attachment-definitions.k8s.cni.cncf.io"));
    assert_eq!(crd.spec.scope, "Namespaced");
    assert_eq!(crd.spec.versions[0].name, NetworkAttachmentDefinition::version(&()));
}
