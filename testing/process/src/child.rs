//! A `crashy` that is talked to: orders go to its standard input, what it has to say comes in lines.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process that runs until it is told, or made, to end.
#[derive(Debug)]
pub struct Crashy {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Crashy {
    /// Starts `program`, the binary `crashy` as `CARGO_BIN_EXE_crashy` names it, on a database.
    pub fn start(program: &str, args: &[String], roots: &[PathBuf]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .args(roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("crashy starts");
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output is ours")).lines();
        Self { child, stdin, output: Some(output) }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let output = self.output.as_mut().expect("somebody else listens");
        match output.next() {
            Some(line) => line.expect("a line"),
            None => panic!("the process ended: {:?}", self.child.wait()),
        }
    }

    /// Waits for a line that begins so.
    pub fn wait_for(&mut self, begin: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// Hands over what it is still going to say, for another thread to listen to.
    pub fn take_output(&mut self) -> Lines<BufReader<ChildStdout>> {
        self.output.take().expect("somebody else listens")
    }

    /// Gives it an order. If it is gone, its last line says why.
    pub fn send(&mut self, order: &str) {
        #[expect(clippy::let_underscore_must_use, reason = "it may be gone")]
        let _ = writeln!(self.stdin.as_mut().expect("it has not been asked to end"), "{order}");
    }

    /// Asks it to end. What it still has to say can be read.
    pub fn ask_to_end(&mut self) {
        drop(self.stdin.take());
    }

    /// Asks it to end, and sees that it does so well.
    pub fn end(mut self) {
        self.ask_to_end();
        // What nobody reads must not hold it up.
        self.output.take().into_iter().flatten().for_each(drop);
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "{status:?}");
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}
