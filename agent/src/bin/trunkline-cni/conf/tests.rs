//! Configurations as runtimes hand them over.

use super::*;

fn conf(text: &str) -> Conf<'_> {
    Conf::parse(text.as_bytes()).expect("well-formed")
}

fn failure<T>(outcome: Result<T, PluginFailure>) -> (u32, String) {
    let PluginFailure(failure) = outcome.err().expect("a failure");
    (failure.code, failure.msg)
}

#[test]
fn a_pod_without_the_annotation_asks_nothing() {
    let capability = |annotations: &str| {
        format!(r#"{{"runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}}}"#)
    };
    for annotations in [
        "null",
        "{}",
        r#"{"a":"b"}"#,
        r#"{"k8s.v1.cni.cncf.io/networks":""}"#,
        r#"{"k8s.v1.cni.cncf.io/networks":" \n"}"#,
        r#"{"k8s.v1.cni.cncf.io/networks":" [ ] "}"#,
        r#"{"k8s.v1.cni.cncf.io/networks":null}"#,
        r#"{"k8s.v1.cni.cncf.io/networks-status":"x"}"#,
    ] {
        assert_eq!(
            conf(&capability(annotations)).annotations(),
            Ok(Annotations::AsksNothing),
            "{annotations}"
        );
    }
    for annotations in [
        r#"{"a":"b","k8s.v1.cni.cncf.io/networks":"net1"}"#,
        r#"{"k8s.v1.cni.cncf.io\/networks":"[{\"name\":\"x\"}]"}"#,
    ] {
        let text = capability(annotations);
        let expected = Annotations::Asks(annotations.as_bytes());
        assert_eq!(conf(&text).annotations(), Ok(expected), "{annotations}");
    }
}

#[test]
fn a_runtime_that_hands_over_nothing_leaves_the_annotations_unknown() {
    for text in ["{}", r#"{"runtimeConfig":{}}"#, r#"{"runtimeConfig":{"portMappings":[]}}"#] {
        assert_eq!(conf(text).annotations(), Ok(Annotations::Unknown), "{text}");
    }
}

#[test]
fn annotations_that_are_no_strings_fail_rather_than_pass() {
    for annotations in ["[]", "1", r#"{"k8s.v1.cni.cncf.io/networks":["a"]}"#] {
        let text = format!(r#"{{"runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{annotations}}}}}"#);
        let (code, msg) = failure(conf(&text).annotations());
        assert_eq!(code, 6, "{annotations}");
        assert_eq!(msg, "runtimeConfig[\"io.kubernetes.cri.pod-annotations\"] is not an object of strings");
    }
}

#[test]
fn versions_from_0_3_0_to_1_1_0_are_spoken() {
    for version in VERSIONS {
        let text = format!(r#"{{"cniVersion":"{version}"}}"#);
        assert_eq!(conf(&text).version().as_deref(), Ok(version));
    }
    for text in ["{}", r#"{"cniVersion":"0.2.0"}"#, r#"{"cniVersion":"2.0.0"}"#] {
        assert_eq!(failure(conf(text).version()).0, 1, "{text}");
    }
}

#[test]
fn settings_have_defaults_and_bounds() {
    let default = conf("{}");
    assert_eq!(default.socket().as_deref(), Ok("/run/trunkline/agent.sock"));
    assert_eq!(default.timeout(), Ok(Duration::from_secs(60)));
    assert_eq!(conf(r#"{"timeoutSeconds":5}"#).timeout(), Ok(Duration::from_secs(5)));
    for value in ["4", "181", "\"60\"", "1.5"] {
        let text = format!(r#"{{"timeoutSeconds":{value}}}"#);
        let expected = (7, format!("timeoutSeconds is {value}; it must be 5 to 180"));
        assert_eq!(failure(conf(&text).timeout()), expected);
    }
    assert_eq!(failure(conf(r#"{"socket":"agent.sock"}"#).socket()).0, 7);
}

#[test]
fn only_listed_namespaces_start_unasked_without_annotations() {
    let cases = [
        ("{}", "kube-system", true),
        ("{}", "trunkline-system", true),
        ("{}", "default", false),
        (r#"{"podsWithoutAnnotations":{"allowNamespaces":["a"]}}"#, "a", true),
        (r#"{"podsWithoutAnnotations":{"allowNamespaces":["*"]}}"#, "a", true),
        (r#"{"podsWithoutAnnotations":{"allowNamespaces":["a"]}}"#, "kube-system", false),
        (r#"{"podsWithoutAnnotations":{"allowNamespaces":[]}}"#, "kube-system", false),
    ];
    for (text, namespace, expected) in cases {
        assert_eq!(conf(text).allows_without_annotations(namespace), Ok(expected), "{text} {namespace}");
    }
    let (code, _) = failure(conf(r#"{"podsWithoutAnnotations":["a"]}"#).allows_without_annotations("a"));
    assert_eq!(code, 7);
}

#[test]
fn failures_are_answered_in_the_conflists_version() {
    for (input, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
        ("not JSON", "1.1.0"),
    ] {
        assert_eq!(version_of(input.as_bytes()), version, "{input}");
    }
}
