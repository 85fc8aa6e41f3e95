//! Each rule of the chained configuration, as a case.

use super::*;

fn entry() -> OurEntry {
    OurEntry {
        socket: "/run/trunkline/agent.sock".to_owned(),
        timeout_seconds: 60,
        allow_namespaces: vec!["kube-system".to_owned()],
    }
}

fn file(name: &str, content: &Value) -> ConfFile {
    ConfFile { name: name.to_owned(), content: content.to_string().into_bytes() }
}

fn list(name: &str, types: &[&str]) -> Value {
    let plugins: Vec<Value> = types.iter().map(|kind| json!({ "type": kind })).collect();
    json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins })
}

fn decide(directory: &[ConfFile]) -> Plan {
    plan(directory, &entry(), History::default())
}

fn written(plan: &Plan) -> Value {
    match &plan.action {
        Action::Write(bytes) => serde_json::from_slice(bytes).expect("our own JSON"),
        other => panic!("expected a write, not {other:?}"),
    }
}

fn types(list: &Value) -> Vec<&str> {
    list["plugins"].as_array().expect("plugins").iter().map(type_of).collect()
}

/// The directory after the plan was carried out.
fn after(mut directory: Vec<ConfFile>, plan: &Plan) -> Vec<ConfFile> {
    if let Action::Write(content) = &plan.action {
        directory.retain(|file| file.name != OUR_FILE);
        directory.push(ConfFile { name: OUR_FILE.to_owned(), content: content.clone() });
    }
    directory
}

/// A directory in which our copy of `source` is already written.
fn settled(source: ConfFile) -> Vec<ConfFile> {
    let directory = vec![source];
    let plan = decide(&directory);
    after(directory, &plan)
}

#[test]
fn the_first_other_conflist_is_copied_with_our_entry_last() {
    let directory = [
        file("20-b.conflist", &list("b", &["macvlan"])),
        file("10-a.conflist", &list("a", &["bridge", "portmap"])),
    ];
    let plan = decide(&directory);
    assert_eq!(plan.state, State::Chained { source: "10-a.conflist".to_owned() });
    let list = written(&plan);
    assert_eq!(list["name"], "a");
    assert_eq!(types(&list), ["bridge", "portmap", "trunkline-cni"]);
    let ours = &list["plugins"][2];
    assert_eq!(ours["capabilities"], json!({ "io.kubernetes.cri.pod-annotations": true }));
    assert_eq!(ours["socket"], "/run/trunkline/agent.sock");
    assert_eq!(ours["timeoutSeconds"], 60);
    assert_eq!(ours["podsWithoutAnnotations"], json!({ "allowNamespaces": ["kube-system"] }));
}

#[test]
fn our_file_sorts_before_the_usual_names() {
    for name in
        ["05-cilium.conflist", "10-calico.conflist", "00-trunkline.conflist.d.conf", "87-podman.conflist"]
    {
        assert!(OUR_FILE < name, "{name}");
    }
}

#[test]
fn name_version_and_disable_check_stay_the_sources() {
    let source = json!({
        "cniVersion": "0.4.0", "name": "cbr0", "disableCheck": true, "disableGC": true,
        "plugins": [{ "type": "flannel", "delegate": { "isDefaultGateway": true } }],
    });
    let copy = written(&decide(&[file("10-flannel.conflist", &source)]));
    for key in ["cniVersion", "name", "disableCheck", "disableGC"] {
        assert_eq!(copy[key], source[key], "{key}");
    }
    assert_eq!(copy["plugins"][0], source["plugins"][0]);
}

#[test]
fn a_single_plugin_configuration_is_wrapped() {
    let source =
        json!({ "cniVersion": "0.3.1", "name": "net", "type": "bridge", "ipam": { "type": "host-local" } });
    for name in ["10-net.conf", "10-net.json"] {
        let copy = written(&decide(&[file(name, &source)]));
        assert_eq!(copy["cniVersion"], "0.3.1");
        assert_eq!(copy["name"], "net");
        assert_eq!(types(&copy), ["bridge", "trunkline-cni"]);
        assert_eq!(copy["plugins"][0]["ipam"]["type"], "host-local");
    }
}

#[test]
fn an_unchanged_source_keeps_our_file() {
    let directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    assert_eq!(decide(&directory).action, Action::Keep);
}

#[test]
fn a_changed_source_rewrites_our_file() {
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge", "portmap"])));
    directory[0] = file("10-a.conflist", &list("a", &["bridge", "bandwidth"]));
    assert_eq!(types(&written(&decide(&directory))), ["bridge", "bandwidth", "trunkline-cni"]);
}

#[test]
fn our_own_entry_is_stripped_from_a_source() {
    let directory = [file("10-a.conflist", &list("a", &["bridge", "trunkline-cni", "portmap"]))];
    assert_eq!(types(&written(&decide(&directory))), ["bridge", "portmap", "trunkline-cni"]);
}

#[test]
fn a_plugin_chained_into_our_file_is_kept_over_rewrites() {
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge", "portmap"])));
    let mut ours: Value = serde_json::from_slice(&directory[1].content).expect("ours");
    ours["plugins"].as_array_mut().expect("plugins").push(json!({ "type": "istio-cni", "x": 1 }));
    directory[1] = file(OUR_FILE, &ours);
    assert_eq!(decide(&directory).action, Action::Keep, "what another chained in is no reason to write");

    directory[0] = file("10-a.conflist", &list("a", &["bridge"]));
    let plan = decide(&directory);
    let copy = written(&plan);
    assert_eq!(types(&copy), ["bridge", "trunkline-cni", "istio-cni"]);
    assert_eq!(copy["plugins"][2]["x"], 1);
    assert_eq!(decide(&after(directory, &plan)).action, Action::Keep);
}

#[test]
fn a_plugin_that_the_source_now_has_is_not_kept_twice() {
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    let mut ours: Value = serde_json::from_slice(&directory[1].content).expect("ours");
    ours["plugins"].as_array_mut().expect("plugins").push(json!({ "type": "istio-cni" }));
    directory[1] = file(OUR_FILE, &ours);
    directory[0] = file("10-a.conflist", &list("a", &["bridge", "istio-cni"]));
    assert_eq!(types(&written(&decide(&directory))), ["bridge", "istio-cni", "trunkline-cni"]);
}

#[test]
fn two_installers_that_copy_each_other_come_to_rest() {
    // The other one sorts before the primary, copies the first other file and appends its own entry, stripping nothing.
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    for round in 0..6 {
        let mut theirs: Value = serde_json::from_slice(
            &directory.iter().find(|file| file.name == OUR_FILE).expect("ours is there").content,
        )
        .expect("JSON");
        theirs["plugins"].as_array_mut().expect("plugins").push(json!({ "type": "other" }));
        directory.retain(|file| file.name != "05-other.conflist");
        directory.push(file("05-other.conflist", &theirs));
        let plan = decide(&directory);
        if round > 1 {
            assert_eq!(plan.action, Action::Keep, "round {round}");
        }
        directory = after(directory, &plan);
    }
    let ours: Value =
        serde_json::from_slice(&directory.iter().find(|f| f.name == OUR_FILE).expect("ours").content)
            .expect("JSON");
    assert_eq!(types(&ours), ["bridge", "other", "trunkline-cni"]);
}

#[test]
fn without_another_conflist_nothing_is_written() {
    let plan = decide(&[ConfFile { name: "readme.txt".to_owned(), content: Vec::new() }]);
    assert_eq!((plan.action, plan.state), (Action::Nothing, State::NoPrimaryCni));
}

#[test]
fn when_the_source_is_gone_the_next_candidate_is_copied() {
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    directory[0] = file("20-b.conflist", &list("b", &["ptp"]));
    let plan = decide(&directory);
    assert_eq!(plan.state, State::Chained { source: "20-b.conflist".to_owned() });
    assert_eq!(types(&written(&plan)), ["ptp", "trunkline-cni"]);
}

#[test]
fn our_file_is_removed_after_a_minute_without_a_source() {
    let ours = settled(file("10-a.conflist", &list("a", &["bridge"]))).split_off(1);
    for (seconds, action) in [(0, Action::Keep), (59, Action::Keep), (60, Action::Remove)] {
        let history = History { none_for: Duration::from_secs(seconds), ..History::default() };
        let plan = plan(&ours, &entry(), history);
        assert_eq!((plan.action, plan.state), (action, State::NoPrimaryCni), "after {seconds} s");
    }
}

#[test]
fn multus_as_primary_is_not_chained_to() {
    for kind in ["multus", "multus-shim"] {
        let multus = file("05-multus.conflist", &list("multus", &[kind]));
        let plan = decide(std::slice::from_ref(&multus));
        assert_eq!(plan.action, Action::Nothing);
        assert_eq!(plan.state, State::Multus { source: "05-multus.conflist".to_owned() });

        let mut directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
        directory.push(multus);
        assert_eq!(decide(&directory).action, Action::Remove, "one from before Multus came is withdrawn");
    }
}

#[test]
fn a_file_that_sorts_before_ours_is_named() {
    let directory =
        [file("00-aaa.conflist", &list("early", &["bridge"])), file("10-a.conflist", &list("a", &["ptp"]))];
    let plan = decide(&directory);
    assert_eq!(plan.shadowed_by, ["00-aaa.conflist"]);
    assert_eq!(plan.state, State::Chained { source: "00-aaa.conflist".to_owned() });
}

#[test]
fn candidates_that_cannot_be_used_are_passed_over_with_a_reason() {
    let cases: [(&str, &str, &str); 5] = [
        ("05-x.conflist", "{", "not a JSON object: EOF while parsing an object at line 1 column 1"),
        ("05-x.conflist", r#"{"name":"x"}"#, "it has no list of plugins"),
        ("05-x.conflist", r#"{"plugins":[]}"#, "it has no plugin besides ours"),
        ("05-x.conflist", r#"{"plugins":[{"type":"trunkline-cni"}]}"#, "it has no plugin besides ours"),
        ("05-x.conf", r#"{"plugins":[{"type":"bridge"}]}"#, "it has no type"),
    ];
    for (name, content, reason) in cases {
        let broken = ConfFile { name: name.to_owned(), content: content.as_bytes().to_vec() };
        let plan = decide(&[broken, file("10-a.conflist", &list("a", &["bridge"]))]);
        assert_eq!(plan.skipped, [Skipped { file: name.to_owned(), reason: reason.to_owned() }], "{content}");
        assert_eq!(plan.state, State::Chained { source: "10-a.conflist".to_owned() });
    }
}

#[test]
fn a_source_in_the_middle_of_being_written_does_not_switch_the_primary() {
    let mut directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    directory[0].content.truncate(10);
    directory.push(file("20-b.conflist", &list("b", &["ptp"])));
    let plan_after = |seconds| {
        let history = History { broken_for: Duration::from_secs(seconds), ..History::default() };
        plan(&directory, &entry(), history)
    };
    let at_first = plan_after(0);
    assert_eq!(at_first.action, Action::Keep);
    assert!(matches!(at_first.state, State::SourceBroken { .. }), "{:?}", at_first.state);
    assert_eq!(plan_after(60).state, State::Chained { source: "20-b.conflist".to_owned() });
}

#[test]
fn versions_without_chaining_are_not_chained_to() {
    for source in
        [json!({ "name": "x", "type": "bridge" }), json!({ "cniVersion": "0.2.0", "name": "x", "type": "b" })]
    {
        let plan = decide(&[file("10-x.conf", &source)]);
        let expected = "its cniVersion is 0.2.0; plugins are chained from 0.3.0 on".to_owned();
        assert_eq!(plan.state, State::CannotChain { source: "10-x.conf".to_owned(), reason: expected });
        assert_eq!(plan.action, Action::Nothing);
    }
}

#[test]
fn a_broken_file_of_ours_is_written_anew() {
    let ours = ConfFile { name: OUR_FILE.to_owned(), content: b"{".to_vec() };
    let plan = decide(&[ours, file("10-a.conflist", &list("a", &["bridge"]))]);
    assert_eq!(types(&written(&plan)), ["bridge", "trunkline-cni"]);
}

#[test]
fn changed_settings_rewrite_our_entry() {
    let directory = settled(file("10-a.conflist", &list("a", &["bridge"])));
    let changed = OurEntry { timeout_seconds: 30, ..entry() };
    let plan = plan(&directory, &changed, History::default());
    assert_eq!(written(&plan)["plugins"][1]["timeoutSeconds"], 30);
}
