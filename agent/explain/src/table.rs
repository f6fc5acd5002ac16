//! The rules, compiled once.

use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};

use crate::findings::Hit;
use crate::rule::{On, Rule};
use crate::rules;

pub(crate) struct Table {
    pub(crate) rules: Vec<&'static Rule>,
    /// All words of all rules at once, and which rule each is of.
    set: RegexSet,
    words: Vec<(usize, Regex)>,
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::compile);

pub(crate) fn table() -> &'static Table {
    &TABLE
}

impl Table {
    fn compile() -> Self {
        let rules: Vec<&Rule> = rules::all().collect();
        let words: Vec<(usize, &str)> = rules
            .iter()
            .enumerate()
            .flat_map(|(i, rule)| rule.on.words().iter().map(move |w| (i, *w)))
            .collect();
        let set =
            RegexSet::new(words.iter().map(|(_, w)| w)).expect("the words are constants, and tests use each");
        let words = words
            .into_iter()
            .map(|(rule, w)| (rule, Regex::new(w).expect("the words are constants, and tests use each")))
            .collect();
        Self { rules, set, words }
    }

    /// The patterns that a line of the task's output matches, or one of the engine's words.
    pub(crate) fn matches(&self, text: &str, engine: bool) -> impl Iterator<Item = usize> {
        let of_engine = |pattern: &usize| matches!(self.rules[self.rule_of(*pattern)].on, On::Engine(_));
        self.set.matches(text).into_iter().filter(move |pattern| of_engine(pattern) == engine)
    }

    pub(crate) fn rule_of(&self, pattern: usize) -> usize {
        self.words[pattern].0
    }

    pub(crate) fn captures<'t>(&self, pattern: usize, text: &'t str) -> Option<Captures<'t>> {
        self.words[pattern].1.captures(text)
    }

    /// All words, in the order of their rules.
    #[cfg(test)]
    pub(crate) fn words(&self) -> Vec<&str> {
        self.words.iter().map(|(_, regex)| regex.as_str()).collect()
    }

    /// The cause of the first rule that is hit.
    pub(crate) fn cause_of(&self, hits: impl Iterator<Item = Hit>) -> Option<&'static str> {
        hits.map(|hit| self.rule_of(hit.pattern)).min().map(|rule| self.rules[rule].cause)
    }
}
