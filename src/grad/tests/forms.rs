//! Every optional form of every operator, at every opset (`scripts/operator_forms.py`): what is read answers as ONNX Runtime does. What came of
//! it is `docs/operator-forms.md`.

use std::collections::BTreeMap;
use std::path::Path;

use super::nodes::{Case, unpacked};

/// What came of the forms of an operator at one version of its schema.
#[derive(Default)]
struct Row {
    agree: usize,
    /// Name of the form, and why it is refused.
    refused: Vec<(String, String)>,
}

#[test]
fn operator_forms() {
    let (folder, names) = unpacked("operator_forms.zip");
    let (mut table, mut wrong) = (BTreeMap::<(String, String), Row>::new(), vec![]);
    for name in &names {
        let [op, version, form] = name.splitn(3, '-').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let row = table.entry((op.to_string(), version.to_string())).or_default();
        match Case::read(folder.path(), name).and_then(|case| case.wrong_value()) {
            Ok(None) => row.agree += 1,
            Ok(Some(why)) => wrong.push(format!("{name}: {why}")),
            Err(e) => row.refused.push((form.to_string(), e.to_string())),
        }
    }
    let page = page(&table);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operator-forms.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {} forms are wrong:\n{}", wrong.len(), names.len(), wrong.join("\n"));
    let current = std::fs::read_to_string(&file).unwrap_or_default() == page;
    assert!(
        current,
        "docs/operator-forms.md is not current; write it with UPDATE_DOCS=1 cargo test --lib operator_forms"
    );
}

fn page(table: &BTreeMap<(String, String), Row>) -> String {
    let agree: usize = table.values().map(|row| row.agree).sum();
    let refused: usize = table.values().map(|row| row.refused.len()).sum();
    let mut page = format!(
        "# Optional forms of operators\n\n\
         Written by `UPDATE_DOCS=1 cargo test --lib operator_forms`; not edited by hand. `scripts/operator_forms.py` goes\n\
         through the versions of each operator's schema and writes a model for every optional input and attribute, alone, in\n\
         pairs, and all at once. The expected values are those of ONNX Runtime; forms that it refuses are left out. Every form that\n\
         is read answers the same to 0.1 %. A refused form is a model that is not loaded, with the reason given.\n\n\
         {} forms: {agree} agree, {refused} are refused, none is wrong.\n\n\
         | operator | opsets | forms that agree | refused |\n|---|---|---|---|\n",
        agree + refused
    );
    let mut by_operator = BTreeMap::<&str, Vec<(&str, &Row)>>::new();
    for ((op, version), row) in table {
        by_operator.entry(op).or_default().push((version.trim_start_matches('0'), row));
    }
    for (op, rows) in &by_operator {
        let versions: Vec<&str> = rows.iter().map(|(version, _)| *version).collect();
        let count = |of: &dyn Fn(&Row) -> usize| rows.iter().map(|(_, row)| of(row)).sum::<usize>();
        let refused = count(&|r| r.refused.len());
        let refused = if refused == 0 { String::new() } else { refused.to_string() };
        page += &format!("| {op} | {} | {} | {refused} |\n", versions.join(", "), count(&|r| r.agree));
    }
    page += "\nThe first refusal of each version:\n\n";
    for ((op, version), row) in table {
        let Some((form, why)) = row.refused.first() else { continue };
        let why: String = why.lines().next().unwrap_or_default().chars().take(90).collect();
        page += &format!("- {op} {}, `{form}`: {}\n", version.trim_start_matches('0'), why.replace('|', "\\|"));
    }
    page
}
