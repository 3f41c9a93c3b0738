//! `dssd heads report` on the demo model: the keys that programs read, and a page that stands
//! alone.

#![expect(
    clippy::unwrap_used,
    reason = "the functions of a test fail by panicking"
)]

use html5ever::{ParseOpts, parse_document, tendril::TendrilSink as _};
use markup5ever_rcdom::{Handle, NodeData, RcDom};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/demo");
const OPENINGS: &str = include_str!("../src/check/openings.txt");
const CLOZE: &str = r#"{"prompt": "Once upon a", "choices": [" time", " purple"], "answer": 0}
{"prompt": "The dog was very", "choices": [" of", " happy"], "answer": 1}
"#;
const SCORES: [&str; 4] = [
    "entropy",
    "max_probability",
    "margin_probability",
    "margin_logit",
];

/// Runs a quick report in `dir`, with more arguments.
fn report(dir: &Path, more: &[&str]) -> Output {
    let text = dir.join("openings.txt");
    std::fs::write(&text, OPENINGS.replace('\n', "<|endoftext|>")).unwrap();
    std::fs::write(dir.join("cloze.jsonl"), CLOZE).unwrap();
    Command::new(env!("CARGO_BIN_EXE_dssd"))
        .args(["heads", "report", "--quick", "--out", "out", "--text"])
        .arg(text)
        .args(["--documents", "all"])
        .args(more)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let list = value[key].as_array();
    list.unwrap_or_else(|| panic!("no list `{key}`"))
}

fn assert_numbers(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value[key].is_number(), "{key}: {value}");
    }
}

fn assert_estimate(value: &Value) {
    assert_numbers(value, &["value", "low", "high"]);
    let at = |key: &str| value[key].as_f64().unwrap();
    assert!(
        at("low") <= at("value") && at("value") <= at("high"),
        "{value}"
    );
}

#[test]
fn a_quick_report_has_every_key_and_a_page_that_stands_alone() {
    let dir = tempfile::TempDir::new().unwrap();
    let more = ["--cloze", "cloze.jsonl", "--heads", DEMO, DEMO, "--json"];
    let output = report(dir.path(), &more);
    assert!(output.status.success(), "{output:?}");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    let report: Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(report, printed);
    assert_eq!(report["quick"], true);
    heads(&report);
    early_exits(&report);
    drafts(&report);
    page(&read("report.html"));
}

fn heads(report: &Value) {
    let heads = list(report, "heads");
    let layers: Vec<_> = heads.iter().map(|head| head["layer"].as_u64()).collect();
    assert_eq!(layers, [2, 4, 7, 9].map(Some));
    for head in heads {
        assert_numbers(head, &["agreement", "kl"]);
        for score in SCORES {
            assert_estimate(&head["auroc"][score]);
            assert_estimate(&head["aurc"][score]);
        }
        let thresholds = list(head, "thresholds");
        assert_eq!(thresholds.len(), 7);
        for threshold in thresholds {
            assert_numbers(threshold, &["epsilon", "nats", "coverage"]);
            assert_eq!(threshold["rule"], "conditional");
        }
        // The laxest target lets something go at the first two heads, however little text.
        let lax = &thresholds[0];
        if head["layer"].as_u64() < Some(5) {
            assert_numbers(lax, &["realised", "low", "high"]);
        }
    }
    // Twice the same heads: two folders without any spread.
    let spread = list(report, "spread");
    assert_eq!(spread.len(), 4);
    for (row, head) in spread.iter().zip(heads) {
        assert_eq!(row["folders"], 2);
        assert_eq!(row["agreement"]["min"], head["agreement"]);
        assert_eq!(row["agreement"]["max"], head["agreement"]);
    }
}

fn early_exits(report: &Value) {
    let rows = list(report, "early_exit");
    let at = |row: &Value, key: &str| row[key].as_f64().unwrap();
    for row in rows {
        assert_numbers(
            row,
            &["agreement", "perplexity_ratio", "never_filled", "speedup"],
        );
        let (depth, layers) = (at(row, "exit_depth"), at(row, "layers_per_token"));
        assert!((2.0..=12.0).contains(&depth), "{row}");
        assert!(layers >= depth - 1e-9 && layers <= 12.0 + 1e-9, "{row}");
    }
    // A stricter target leaves later, and is right more often.
    let (first, last) = (&rows[0], rows.last().unwrap());
    assert_eq!(
        (&first["epsilon"], &last["epsilon"]),
        (&0.6.into(), &0.99.into())
    );
    assert!(at(first, "exit_depth") < at(last, "exit_depth"));
    assert!(at(first, "agreement") < at(last, "agreement"));
    let cloze = &report["cloze"];
    assert_eq!(cloze["questions"], 2);
    assert_eq!(cloze["whole_model"]["value"], 1.0, "{cloze}");
    assert_eq!(list(cloze, "early_exit").len(), rows.len());
}

fn drafts(report: &Value) {
    let rows = list(report, "policies");
    for temperature in [0.0, 1.0] {
        let at = |row: &&Value| row["temperature"] == temperature;
        let names: Vec<_> = (rows.iter().filter(at))
            .map(|row| row["policy"].as_str().unwrap())
            .collect();
        let expected = [
            "fixed",
            "layerskip",
            "max-prob",
            "adaedl",
            "product",
            "del",
            "entropy",
            "auto",
            "dssd",
        ];
        assert_eq!(names, expected);
    }
    for row in rows {
        assert!(row["settings"].is_string());
        let keys = [
            "tokens_per_second",
            "speedup",
            "draft_acceptance_rate",
            "mean_acceptance_length",
            "wasted_per_token",
            "coverage",
            "draft_seconds",
            "verify_seconds",
            "wire_seconds",
            "tokens_per_pass",
            "optimum_speedup",
            "modelled_speedup",
        ];
        assert_numbers(row, &keys);
    }
    // Two heads, three lengths and two temperatures are the corners of the grid.
    let grid = list(report, "layerskip_grid");
    assert_eq!(grid.len(), 2 * 3 * 2);
    let keys = [
        "layer",
        "tokens",
        "tokens_per_second",
        "draft_acceptance_rate",
        "wasted_per_token",
    ];
    grid.iter().for_each(|row| assert_numbers(row, &keys));
    let comparisons = list(report, "comparisons");
    assert_eq!(comparisons.len(), 2);
    for comparison in comparisons {
        assert_eq!(list(comparison, "auto_over").len(), 8);
        assert!(comparison["met"].is_boolean());
        assert_estimate(&comparison["auto_over_best"]);
    }
    // The first and the last target, at two temperatures.
    let dssd = list(report, "dssd_grid");
    assert_eq!(dssd.len(), 2 * 2);
    assert_numbers(
        &dssd[0],
        &["epsilon", "draft_acceptance_rate", "mean_acceptance_length"],
    );
    // Heads whose costs are known by two fixed lengths.
    let placements = list(report, "placements");
    let layers: Vec<_> = placements.iter().map(|row| row["layer"].as_u64()).collect();
    assert_eq!(layers, [2, 9].map(Some));
    for placement in placements {
        assert_numbers(placement, &["wire_seconds"]);
        let speedup = |key: &str| placement[key]["speedup"].as_f64().unwrap();
        assert!(
            speedup("optimum") <= speedup("optimum_without_wire"),
            "{placement}"
        );
    }
    let paper = &comparisons[0]["layerskip"];
    let ratio = &report["dssd_over_layerskip_acceptance"];
    assert_eq!(ratio, &paper["dssd_over_layerskip_acceptance"]);
}

/// Parses as a browser does, without an error, and names nothing outside.
fn page(html: &str) {
    let dom = parse_document(RcDom::default(), ParseOpts::default()).one(html);
    assert_eq!(*dom.errors.borrow(), [""; 0]);
    let mut elements = Vec::new();
    walk(&dom.document, &mut elements);
    for Element { name, attributes } in &elements {
        let active = ["script", "link", "img", "iframe"].contains(&name.as_str());
        assert!(!active, "{name}");
        for (attribute, value) in attributes {
            let outside = ["src", "href", "data"].contains(&attribute.as_str());
            let active = attribute.starts_with("on");
            assert!(!outside && !active, "{name} {attribute}={value}");
        }
    }
    let charts = elements
        .iter()
        .filter(|element| element.name == "svg")
        .count();
    // Agreement, ROC and risk for four heads, thresholds, three of early exits, two a temperature.
    assert_eq!(charts, 1 + 4 + 4 + 1 + 3 + 2 * 2);
    for outside in ["http:", "https:", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

struct Element {
    name: String,
    attributes: Vec<(String, String)>,
}

fn walk(node: &Handle, elements: &mut Vec<Element>) {
    if let NodeData::Element { name, attrs, .. } = &node.data {
        let attributes = attrs.borrow();
        let attributes = attributes.iter().map(|attribute| {
            (
                attribute.name.local.to_string(),
                attribute.value.to_string(),
            )
        });
        elements.push(Element {
            name: name.local.to_string(),
            attributes: attributes.collect(),
        });
    }
    for child in node.children.borrow().iter() {
        walk(child, elements);
    }
}

#[test]
fn what_cannot_be_measured_is_named_before_anything_is() {
    let dir = tempfile::TempDir::new().unwrap();
    let broken = dir.path().join("broken.jsonl");
    let line = r#"{"prompt": "a", "choices": ["b"], "answer": 0}"#;
    std::fs::write(&broken, format!("{}{line}", CLOZE)).unwrap();
    let refused = report(dir.path(), &["--cloze", "broken.jsonl"]);
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        words.contains("broken.jsonl, line 3") && words.contains("choices"),
        "{words}"
    );
    std::fs::write(dir.path().join("one.txt"), "Only one prompt\n").unwrap();
    let refused = report(dir.path(), &["--prompts", "one.txt"]);
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("--prompts"), "{words}");
    let usage = report(dir.path(), &["--rounds", "0"]);
    assert_eq!(usage.status.code(), Some(2));
}
