//! Every command of the guides from top to bottom, of the README where it installs and lets go, of what Helm prints, and of what sentences name
//! in passing to look at, as a reader runs them; and what they print is what the page says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::{Cluster, images, programs};

use super::fixture::{group, without_tables};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// A fenced block of a page, with its language and the line that it begins at.
struct Block {
    line: usize,
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some(Block { line: number + 1, language: language.to_owned(), text: String::new() }),
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(block)) => open = Some(Block { text: format!("{}{line}\n", block.text), ..block }),
            (None, None) => {}
        }
    }
    blocks
}

/// Whether a line says what a page says; `…` there stands for anything, and any space for any spaces.
fn says(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (words(line), words(expected));
    let pieces: Vec<&str> = expected.split('…').map(str::trim).collect();
    let [first, .., last] = pieces[..] else { return line == expected };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for piece in &pieces[1..] {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    line.ends_with(last)
}

const GUIDES: &str = "deploy/guides";

/// Runs the commands of a page in one shell; each block of output has to be found, line by line, in what the commands before it print.
fn follow(cluster: &Cluster, page: &str) -> Result<()> {
    let text = fs::read_to_string(root().join(page)).with_context(|| page.to_owned())?;
    follow_blocks(cluster, page, &blocks(&text))
}

/// The same of the part of the README below a heading.
fn follow_part(cluster: &Cluster, heading: &str) -> Result<()> {
    let text = fs::read_to_string(root().join("README.md"))?;
    let (_, part) = text.split_once(&format!("\n## {heading}\n")).with_context(|| format!("README.md: {heading}"))?;
    let part = part.split("\n## ").next().unwrap_or_default();
    let blocks = blocks(part);
    ensure!(!blocks.is_empty(), "README.md: nothing to run below {heading}");
    follow_blocks(cluster, &format!("README.md, below {heading}"), &blocks)
}

fn follow_blocks(cluster: &Cluster, page: &str, blocks: &[Block]) -> Result<()> {
    const END: &str = "--- end of a block ---";
    let commands: Vec<&Block> = blocks.iter().filter(|block| block.language == "sh").collect();
    let script: String = commands.iter().map(|block| format!("{}echo '{END}'\n", block.text)).collect();
    let path = std::env::var("PATH").unwrap_or_default();
    let helm = programs::helm()?;
    let helm = helm.parent().unwrap_or(Path::new("/"));
    let mut command = Command::new("bash");
    // What cargo tells tests of themselves would make a cargo of theirs build everything anew.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        command.env_remove(name);
    }
    let output = command
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{script}")])
        .current_dir(root())
        .env("PATH", format!("{}:{}:{path}", cluster.kubernetes().display(), helm.display()))
        .env("KUBECONFIG", cluster.kubeconfig())
        // The programs as they are built already.
        .env("IMAGE_PROFILE", "dev")
        .envs(["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"].map(|name| (name, cluster.dir().join("helm"))))
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{page}: {}\n{printed}", output.status);
    let mut printed = printed.split(&format!("{END}\n")).map(str::to_owned).collect::<Vec<_>>().into_iter();
    let mut last = String::new();
    for block in blocks {
        match block.language.as_str() {
            "sh" => last = printed.next().unwrap_or_default(),
            "" => {
                let mut lines = last.lines();
                for expected in block.text.lines() {
                    ensure!(
                        lines.any(|line| says(line, expected)),
                        "{page}, line {}: this is not printed (or not in this order): {expected}\nbut this is:\n{last}",
                        block.line
                    );
                }
            }
            other => anyhow::bail!("{page}, line {}: a block of {other:?} is neither run nor compared", block.line),
        }
    }
    println!("{page}: {} blocks of commands", commands.len());
    Ok(())
}

/// What the README says of an operator that is gone for good: what it held goes.
fn without_its_operator(cluster: &Cluster) -> Result<()> {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: held }\n";
    cluster.kubectl_stdin(&["apply", "-f", "-"], &format!("{namespace}{}", group("held", "web", "ingress: []", &["web"])))?;
    cluster.kubectl(&["wait", "--for=jsonpath={.metadata.finalizers}", "sg/web", "--namespace=held", "--timeout=300s"])?;
    let operators = |count| cluster.kubectl(&["scale", "deployment/operator", "--namespace=kube-security-groups", count]);
    operators("--replicas=0")?;
    let selector = "--selector=app.kubernetes.io/component=operator";
    cluster.kubectl(&["wait", "--for=delete", "pod", selector, "--namespace=kube-security-groups", "--timeout=300s"])?;
    cluster.kubectl(&["delete", "sg/web", "--namespace=held", "--wait=false"])?;
    let held = cluster.kubectl(&["get", "sg/web", "--namespace=held", "--output=name"])?;
    ensure!(!held.is_empty(), "it is held");
    follow_part(cluster, "Limits, and deleting what is in use")?;
    cluster.kubectl(&["wait", "--for=delete", "sg/web", "--namespace=held", "--timeout=300s"])?;
    cluster.kubectl(&["delete", "namespace/held"])?;
    operators("--replicas=2")?;
    cluster.kubectl(&["rollout", "status", "deployment/operator", "--namespace=kube-security-groups", "--timeout=300s"])?;
    Ok(())
}

/// The nodes get the image that the first command of the page makes, as the page says: by `ctr … images import`.
fn image(cluster: &Cluster) -> Result<()> {
    let page = format!("{GUIDES}/install.md");
    let text = fs::read_to_string(root().join(&page))?;
    let first: Vec<Block> = blocks(&text).into_iter().take(2).collect();
    ensure!(first[0].text == "deploy/image\n", "{page} begins with the image");
    follow_blocks(cluster, &page, &first)?;
    let archive = root().join("target/images/kube-security-groups.tar");
    cluster.nodes().iter().try_for_each(|node| node.import(std::slice::from_ref(&archive)))
}

/// What Helm prints after an installation, with images that are here, and what they have in place of `nc`.
fn follow_notes(cluster: &Cluster) -> Result<()> {
    let notes = cluster.helm(&["get", "notes", "kube-security-groups", "--namespace=kube-security-groups"])?;
    // Indented as they are printed and copied.
    let commands: String = notes.lines().filter(|line| line.starts_with("     ")).map(|line| format!("{line}\n")).collect();
    let probe = format!("--image={} --image-pull-policy=Never", images::PROBE);
    let mut here = commands;
    for (theirs, ours) in [
        ("--image=nginx --labels=app=web", format!("{probe} --labels=app=web --command -- /bin/probe serve --tcp 80")),
        ("--image=busybox --command -- sleep 1d", format!("{probe} --command -- /bin/probe pause")),
        ("nc -z -w 2 \"$WEB\" 80", "/bin/probe tcp --timeout-ms 2000 \"$WEB\" 80 | grep '\"ok\":true'".into()),
    ] {
        ensure!(here.contains(theirs), "{theirs} is not in\n{here}");
        here = here.replace(theirs, &ours);
    }
    let answers = "```\n{\"ok\":true,…}\nanswers\n… created\n… created\n… condition met\n… condition met\ndoes not answer\n… patched\n… condition met\n… condition met\n{\"ok\":true,…}\nanswers\n… deleted…\n… deleted…\n… deleted…\n… deleted…\n```";
    follow_blocks(cluster, "NOTES.txt", &blocks(&format!("```sh\n{here}```\n{answers}\n")))
}

/// Commands within the sentences of a page, of those that look at something.
fn looks(page: &str) -> Vec<String> {
    const LOOKS: [&str; 5] = ["kubectl get ", "kubectl describe ", "kubectl explain ", "kubectl wait ", "nft list "];
    let mut fenced = false;
    let is_prose = |line: &&str| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fence && !fenced
    };
    let prose: Vec<&str> = page.lines().filter(is_prose).collect();
    let code = prose.join(" ");
    let code = code.split('`').skip(1).step_by(2);
    code.filter(|code| LOOKS.iter().any(|start| code.starts_with(start))).map(str::to_owned).collect()
}

/// What pages say in passing works as well.
fn look(cluster: &Cluster, pages: &[String]) -> Result<()> {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";
    cluster.kubectl_stdin(&["apply", "-f", "-"], &format!("{namespace}{}", group("shop", "web", "ingress: []", &["web"])))?;
    for page in pages {
        for command in looks(&fs::read_to_string(root().join(page))?) {
            match command.strip_prefix("nft ") {
                Some(command) => drop(cluster.node(0).nft(command)?),
                None => {
                    let text = format!("{}\n", command.replace(" NODE", &format!(" {}", cluster.node(0).name())));
                    follow_blocks(cluster, page, &[Block { line: 0, language: "sh".into(), text }])?;
                }
            }
            println!("{page}: {command}");
        }
    }
    cluster.kubectl(&["delete", "namespace/shop"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_guides_does_what_the_page_says() -> Result<()> {
    let cluster = Cluster::builder("guides").start().await?;
    tokio::task::block_in_place(|| {
        image(&cluster)?;
        // It begins with the image and ends with everything gone.
        follow(&cluster, &format!("{GUIDES}/install.md"))?;
        follow_part(&cluster, "Install it")?;
        follow_notes(&cluster)?;
        without_its_operator(&cluster)?;
        let mut pages: Vec<String> =
            fs::read_dir(root().join(GUIDES))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        pages.retain(|page| page != "install.md");
        pages.sort();
        let without_helm = pages.pop().filter(|page| page == "without-helm.md").context("the last page")?;
        pages.iter().try_for_each(|page| follow(&cluster, &format!("{GUIDES}/{page}")))?;
        let beside = ["README.md".into(), "charts/kube-security-groups/README.md".into(), format!("{GUIDES}/install.md")];
        look(&cluster, &pages.iter().map(|page| format!("{GUIDES}/{page}")).chain(beside).collect::<Vec<_>>())?;
        cluster.helm(&["uninstall", "kube-security-groups", "--namespace=kube-security-groups", "--wait"])?;
        follow(&cluster, &format!("{GUIDES}/{without_helm}"))?;
        without_tables(&cluster)?;
        let left = cluster.kubectl(&["get", "crd", "--output=name"])?;
        ensure!(!left.contains("securitygroups.dev"), "{left}");
        // From the namespace to the last definition, too.
        follow(&cluster, "charts/kube-security-groups/README.md")
    })
}

#[test]
fn an_ellipsis_stands_for_anything_and_nothing_else_does() {
    assert!(says("web   4  2   13s", "web 4 2 …"));
    assert!(says("{\"ok\":true,\"ms\":0.1}", "{\"ok\":true,…}"));
    assert!(!says("{\"ok\":false,\"ms\":0.1}", "{\"ok\":true,…}"));
    assert!(!says("web 4 2 13s", "web 4 3 …"));
    assert!(!says("the web 4 2 13s", "web 4 2 …"));
    assert!(says("the web 4 2 13s", "… web 4 2 …"));
    assert!(!says("web 4 2 13s", "web 4 2"));
}

#[test]
fn commands_in_sentences_are_found_and_names_of_commands_are_not() {
    let page = "`kubectl get sg -A` says so, as `helm upgrade` does; see `kubectl wait sg\n--all`.\n```sh\nkubectl get `x`\n```\nOr `nft list tables`.";
    assert_eq!(looks(page), ["kubectl get sg -A", "kubectl wait sg --all", "nft list tables"]);
}
