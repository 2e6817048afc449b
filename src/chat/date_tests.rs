//! Dates, against Python's `strftime` in `tests/chat/renders.json`.

use super::Moment;
use crate::error::ErrorKind;

#[test]
fn dates_are_written_as_in_python() {
    let renders: serde_json::Value = serde_json::from_str(include_str!("../../tests/chat/renders.json")).unwrap();
    let cases = renders["strftime"].as_array().unwrap();
    for case in cases {
        let moment = Moment::from_unix_seconds(case["seconds"].as_i64().unwrap()).unwrap();
        assert_eq!(
            moment.strftime(case["format"].as_str().unwrap()).unwrap(),
            case["text"].as_str().unwrap(),
            "{case}"
        );
    }
    assert!(cases.len() >= 1000, "{}", cases.len());
}

#[test]
fn other_years_and_directives_are_refused() {
    for seconds in [i64::MIN, -62_135_596_801, 253_402_300_800, i64::MAX] {
        assert_eq!(Moment::from_unix_seconds(seconds).unwrap_err().kind(), ErrorKind::Usage);
    }
    let moment = Moment::from_unix_seconds(0).unwrap();
    for format in ["%Q", "%", "%-", "a %", "%é", "%-é"] {
        let e = moment.strftime(format).unwrap_err();
        assert!(e.kind() == ErrorKind::BadData && e.to_string().contains("not known"), "{format}: {e}");
    }
    assert_eq!(moment.strftime("é 100%%").unwrap(), "é 100%");
}
