//! Files of a directory that others write into.

use super::*;

fn node() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (conf, bin) = (root.path().join("net.d"), root.path().join("bin"));
    let image = root.path().join("image-plugin");
    fs::create_dir(&conf).expect("conf");
    fs::write(&image, b"plugin 1").expect("image");
    (root, conf, bin, image)
}

#[test]
fn the_binary_is_installed_once_and_replaced_when_it_differs() {
    let (_root, _, bin, image) = node();
    assert!(install_binary(&image, &bin).expect("installs"));
    let mode = fs::metadata(bin.join(PLUGIN)).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert!(!install_binary(&image, &bin).expect("identical"));
    fs::write(&image, b"plugin 2").expect("image");
    assert!(install_binary(&image, &bin).expect("replaces"));
    assert_eq!(fs::read(bin.join(PLUGIN)).expect("there"), b"plugin 2");
}

#[test]
fn what_a_kill_leaves_is_not_read_and_is_written_over() {
    let (_root, conf, _, _) = node();
    fs::write(conf.join(".00-trunkline.conflist.tmp"), b"half").expect("leftover");
    assert_eq!(read_directory(&conf).expect("reads"), []);
    write_conflist(&conf, b"{}").expect("writes");
    let names: Vec<_> = fs::read_dir(&conf).expect("dir").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(names, [OUR_FILE]);
}

#[test]
fn uninstalling_removes_ours_only_and_may_be_repeated() {
    let (_root, conf, bin, image) = node();
    install_binary(&image, &bin).expect("installs");
    write_conflist(&conf, b"{}").expect("writes");
    fs::write(conf.join("10-a.conflist"), b"{}").expect("theirs");
    fs::write(bin.join("bridge"), b"x").expect("theirs");
    assert_eq!(uninstall(&conf, &bin).expect("removes"), Removed { conflist: true, binary: true });
    assert_eq!(uninstall(&conf, &bin).expect("again"), Removed::default());
    assert!(conf.join("10-a.conflist").exists() && bin.join("bridge").exists());
}

#[test]
fn a_missing_directory_holds_nothing() {
    assert_eq!(read_directory(Path::new("/nonexistent/trunkline")).expect("no error"), []);
}

#[test]
fn other_names_and_huge_files_are_not_read() {
    let (_root, conf, _, _) = node();
    fs::write(conf.join("notes.txt"), b"{}").expect("file");
    fs::create_dir(conf.join("dir.conf")).expect("dir");
    File::create(conf.join("huge.conf")).and_then(|f| f.set_len(MAX_CONF_SIZE + 1)).expect("file");
    assert_eq!(read_directory(&conf).expect("reads"), []);
}
