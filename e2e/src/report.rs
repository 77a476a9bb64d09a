//! The report of a fault run: what was done when, and what was compared, of each test a section that it appends to the file that `FAULT_REPORT` names.
//! `scripts/test.sh faults` makes `docs/faults.md` of it.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::world::World;

/// One test's section. It is written when this is dropped, so also by a test that fails.
pub struct Report<'w> {
    world: &'w World,
    test: &'static str,
    seed: u64,
    compared: Vec<String>,
    result: &'static str,
}

impl<'w> Report<'w> {
    /// Of `test`, which has just begun, with `seed`.
    #[must_use]
    pub const fn begin(world: &'w World, test: &'static str, seed: u64) -> Self {
        Self { world, test, seed, compared: Vec::new(), result: "FAILED" }
    }

    /// What was compared with the recomputation, and was equal.
    pub fn compared(&mut self, lines: Vec<String>) {
        self.compared = lines;
    }

    /// The test has ended well.
    pub fn passed(mut self) {
        self.result = "passed";
    }

    fn section(&self) -> String {
        let done: String = self.world.said().iter().map(|line| format!("{line}\n")).collect();
        let compared: String = self.compared.iter().map(|line| format!("- {line}\n")).collect();
        let compared = if compared.is_empty() { "Nothing was equal to the recomputation from the topic.\n".to_owned() } else { compared };
        format!("## {}, seed {}: {}\n\n```text\n{done}```\n\n{compared}\n", self.test.replace('_', " "), self.seed, self.result)
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("FAULT_REPORT") else { return };
        // In one write, since tests may run beside each other.
        let written = OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| file.write_all(self.section().as_bytes()));
        if let Err(error) = written {
            eprintln!("the report {} cannot be written: {error}", path.display());
        }
    }
}
