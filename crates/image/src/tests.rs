use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;

use super::*;

#[test]
fn ldd_names_files_and_leaves_the_vdso_out() {
    let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f1)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
    let found: Vec<String> = root::parse_ldd(text).iter().map(|path| path.display().to_string()).collect();
    assert_eq!(found, ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
}

fn shell() -> PathBuf {
    fs::canonicalize("/bin/sh").unwrap()
}

fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), content);
    }
    files
}

/// The blob of a descriptor, which has to be what the descriptor says.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let content = files[&path(descriptor)].as_slice();
    assert_eq!(descriptor["digest"], digest(content));
    assert_eq!(descriptor["size"], content.len());
    content
}

fn parsed(content: &[u8]) -> Value {
    serde_json::from_slice(content).unwrap()
}

#[test]
fn from_the_index_every_digest_leads_to_a_root_that_runs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    for small in [false, true] {
        let file = dir.path().join("image.tar");
        let image = Image::new("docker.io/test/shell:1", vec![shell()]).entrypoint(&["/bin/sh"]).user("1:2");
        let image = if small { image.small() } else { image };
        let size = image.write(&file).unwrap();
        assert_eq!(size, fs::metadata(&file).unwrap().len());

        let files = files(&file);
        assert_eq!(parsed(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = parsed(&files["index.json"]);
        assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");
        let platforms = parsed(blob(&files, &index["manifests"][0]));
        let this = &platforms["manifests"][0];
        assert_eq!(this["platform"], json!({ "architecture": architecture(), "os": "linux" }));
        let manifest = parsed(blob(&files, this));
        let config = parsed(blob(&files, &manifest["config"]));
        assert_eq!(config["config"]["User"], "1:2");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/sh"]));
        let layer = blob(&files, &manifest["layers"][0]);
        let mut tar = Vec::new();
        match small {
            true => drop(flate2::read::GzDecoder::new(layer).read_to_end(&mut tar).unwrap()),
            false => tar.extend(layer),
        }
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));

        let docker = parsed(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"][0], "docker.io/test/shell:1");
        assert_eq!(docker[0]["Config"], path(&manifest["config"]));
        assert_eq!(docker[0]["Layers"][0], path(&manifest["layers"][0]));
    }

    let root = dir.path().join("root");
    Image::new("docker.io/test/shell:1", vec![shell()]).unpack(&root).unwrap();
    let program = format!("/bin/{}", shell().file_name().unwrap().to_string_lossy());
    let said = Command::new("chroot").arg(&root).args([&program, "-c", "echo works"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "works\n", "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let file = dir.path().join(name);
        Image::new("docker.io/test/shell:1", vec![shell()]).small().write(&file).unwrap();
        fs::read(file).unwrap()
    };
    assert!(write("one") == write("two"));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Image::new("docker.io/test/none:1", vec!["/nonexistent/program".into()]).write(&dir.path().join("x")).unwrap_err();
    assert_eq!(format!("{error:#}"), "reading /nonexistent/program: No such file or directory (os error 2)");
}
