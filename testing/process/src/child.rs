//! A child process `crashy`: the test sends orders to its standard input and reads its reports
//! line by line.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A `crashy` that runs until it is asked to exit or is killed.
#[derive(Debug)]
pub struct Crashy {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Crashy {
    /// Starts `program` (the `crashy` binary, as `CARGO_BIN_EXE_crashy` names it) on a database.
    pub fn start(program: &str, args: &[String], roots: &[PathBuf]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .args(roots)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("crashy starts");
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("the output is piped")).lines();
        Self { child, stdin, output: Some(output) }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output.
    pub fn line(&mut self) -> String {
        let output = self.output.as_mut().expect("the output was taken");
        match output.next() {
            Some(line) => line.expect("a line"),
            None => panic!("the process ended: {:?}", self.child.wait()),
        }
    }

    /// Reads lines until one starts with `begin`; returns that line.
    pub fn wait_for(&mut self, begin: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// Gives away the remaining output, for another thread to read.
    pub fn take_output(&mut self) -> Lines<BufReader<ChildStdout>> {
        self.output.take().expect("the output was taken")
    }

    /// Sends an order. If the process has exited, its last line tells why.
    pub fn send(&mut self, order: &str) {
        #[expect(clippy::let_underscore_must_use, reason = "it may have exited")]
        let _ = writeln!(self.stdin.as_mut().expect("the input is open"), "{order}");
    }

    /// Asks it to exit by closing its input. Its remaining output can still be read.
    pub fn ask_to_end(&mut self) {
        drop(self.stdin.take());
    }

    /// Asks it to exit, and checks that it exits successfully.
    pub fn end(mut self) {
        self.ask_to_end();
        // Drains the output, so that a full pipe does not block the process.
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
