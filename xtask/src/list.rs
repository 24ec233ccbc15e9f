//! `testing/mutants.toml`: the lines that guarantees depend on, a mutation of each, and the tests
//! that then fail.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Result;

const LIST: &str = "testing/mutants.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// One mutation of the engine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// The guarantee that the line implements, as numbered in `docs/TESTING.md`.
    pub(crate) guarantee: u8,
    /// Relative to the root of the repository.
    pub(crate) file: PathBuf,
    /// Occurs in the file exactly once.
    find: String,
    replace: String,
    /// Arguments of `cargo test`.
    test: Vec<String>,
    /// More tests, each of which fails, too.
    #[serde(default)]
    also: Vec<Vec<String>>,
    /// What goes wrong then.
    pub(crate) why: String,
}

impl Mutant {
    /// Every test that the mutation makes fail, as arguments of `cargo test`.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &[String]> {
        [&self.test].into_iter().chain(&self.also).map(Vec::as_slice)
    }

    /// The text of the file with the mutation applied.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            n => Err(format!(
                "{}: expected its text once in {}, found it {n} times",
                self.name,
                self.file.display()
            )),
        }
    }
}

/// All mutants, in list order.
pub(crate) fn read(root: &Path) -> Result<Vec<Mutant>> {
    let path = root.join(LIST);
    let text = read_text(&path)?;
    let list: List = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    check(root, &list.mutant)?;
    Ok(list.mutant)
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Checks that the list matches the sources; the error names every mismatch.
fn check(root: &Path, mutants: &[Mutant]) -> Result<()> {
    let mut names = HashSet::new();
    let mut problems = Vec::new();
    for mutant in mutants {
        if !names.insert(&mutant.name) {
            problems.push(format!("{}: the name occurs twice", mutant.name));
        }
        if !(1..=10).contains(&mutant.guarantee) || mutant.why.is_empty() {
            problems.push(format!(
                "{}: expected a guarantee from 1 to 10 and a non-empty `why`",
                mutant.name
            ));
        }
        if mutant.tests().any(<[String]>::is_empty) {
            problems.push(format!("{}: a test without arguments would run all tests", mutant.name));
        }
        let applied = read_text(&root.join(&mutant.file)).and_then(|text| mutant.apply(&text));
        problems.extend(applied.err());
    }
    if problems.is_empty() { Ok(()) } else { Err(format!("{LIST}: {}", problems.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    #[test]
    fn every_mutant_matches_the_sources() {
        let mutants = read(root()).unwrap();
        for guarantee in 1..=10 {
            assert!(mutants.iter().any(|m| m.guarantee == guarantee), "{guarantee}");
        }
    }

    #[test]
    fn mutant_list_and_document_name_the_same_existing_tests() {
        let mutants = read(root()).unwrap();
        let document = read_text(&root().join("docs/TESTING.md")).unwrap();
        let table = document.split("## ").find(|s| s.starts_with("The guarantees")).unwrap();
        let mut sources = String::new();
        collect(&root().join("crates"), &mut sources);
        collect(&root().join("testing"), &mut sources);
        for test in mutants.iter().flat_map(Mutant::tests) {
            let name = test.last().unwrap().rsplit("::").next().unwrap();
            assert!(sources.contains(&format!("fn {name}(")), "no test is called {name}");
            assert!(table.contains(&format!("`{name}`")), "docs/TESTING.md does not name {name}");
        }
        // The document names tests that fail only now and then; no mutant depends on one.
        let tests = table.lines().filter_map(|line| line.split('|').nth(3));
        let certain = tests.flat_map(|tests| tests.split("now and then").next());
        let named = certain.flat_map(|line| line.split('`').skip(1).step_by(2));
        for name in named.filter(|name| sources.contains(&format!("fn {name}("))) {
            let is_tested = mutants
                .iter()
                .flat_map(Mutant::tests)
                .any(|test| test.last().unwrap().rsplit("::").next().unwrap() == name);
            assert!(is_tested, "{LIST} has no mutant for {name}");
        }
    }

    fn collect(dir: &Path, into: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push_str(&read_text(&path).unwrap());
            }
        }
    }
}
