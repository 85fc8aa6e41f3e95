//! The writer beside other installers.

use std::fs;

use super::super::plan::OUR_FILE;
use super::*;

fn options(root: &Path) -> ConflistOptions {
    let options = ConflistOptions {
        conf_dir: root.join("net.d"),
        bin_dir: root.join("bin"),
        plugin: root.join("plugin"),
        entry: OurEntry { socket: "/s".to_owned(), timeout_seconds: 60, allow_namespaces: Vec::new() },
    };
    fs::create_dir(&options.conf_dir).expect("conf");
    fs::write(&options.plugin, b"x").expect("plugin");
    options
}

const SOURCE: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"}]}"#;

#[tokio::test]
async fn the_writer_publishes_what_it_did_and_leaves_the_files_when_it_stops() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let options = options(root.path());
    fs::write(options.conf_dir.join("10-a.conflist"), SOURCE).expect("source");
    let stop = CancellationToken::new();
    let (writer, mut view) = ConflistWriter::new(options.clone());
    let task = tokio::spawn(writer.run(stop.clone()));
    view.wait_for(Option::is_some).await.expect("a first look");
    let state = view.borrow().as_ref().and_then(|look| look.as_ref().ok().map(|plan| plan.state.clone()));
    assert_eq!(state, Some(State::Chained { source: "10-a.conflist".to_owned() }));
    stop.cancel();
    task.await.expect("stops");
    assert!(options.conf_dir.join(OUR_FILE).exists() && options.bin_dir.join("trunkline-cni").exists());
}

#[test]
fn without_its_binary_no_conflist_is_written() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut options = options(root.path());
    fs::write(options.conf_dir.join("10-a.conflist"), SOURCE).expect("source");
    options.plugin = root.path().join("missing");
    let (_, look) = look(&options, Memory::default());
    assert!(matches!(look.as_ref().map_err(|error| &**error), Err(ConflistError::Read { .. })), "{look:?}");
    assert!(!options.conf_dir.join(OUR_FILE).exists());
}

#[test]
fn a_removed_binary_comes_back() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let options = options(root.path());
    fs::write(options.conf_dir.join("10-a.conflist"), SOURCE).expect("source");
    let (memory, first) = look(&options, Memory::default());
    first.expect("works");
    fs::remove_file(options.bin_dir.join("trunkline-cni")).expect("removed");
    let (_, second) = look(&options, memory);
    second.expect("works");
    assert!(options.bin_dir.join("trunkline-cni").exists());
}

#[test]
fn our_file_goes_a_minute_after_its_last_source() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let options = options(root.path());
    let source = options.conf_dir.join("10-a.conflist");
    fs::write(&source, SOURCE).expect("source");
    let mut memory = Memory::default();
    let start = Instant::now();
    let mut look_after = |seconds| {
        try_look(&options, &mut memory, start + Duration::from_secs(seconds)).expect("works");
        options.conf_dir.join(OUR_FILE).exists()
    };
    assert!(look_after(0));
    fs::remove_file(&source).expect("removed");
    assert!(look_after(10) && look_after(69));
    assert!(!look_after(70));
}
