use super::*;

fn read(lines: &[&str]) -> Option<u128> {
    let headers = headers(lines.iter().map(|line| ("ratelimit", *line)));
    let [strict, lenient] =
        [STRICT, LENIENT].map(|parser| delay_ms(parser.rate_limit(true).parse(&headers, no_clock)));
    assert_eq!(strict, lenient, "{lines:?}");
    lenient
}

#[test]
fn an_empty_quota_says_when_it_is_filled() {
    for (lines, expected) in [
        (&["\"default\";r=0;t=5"][..], Some(5_000)),
        (&["\"default\" ;r=0;t=5"], None),
        (&["\"a,b;r=9\"; r=0; t=5"], Some(5_000)),
        (&["default;t=5;r=0;pk=:AQ==:"], Some(5_000)),
        (
            &["\"a\";r=0;t=5, \"b\";r=0;t=60 ,\t\"c\";r=1;t=900"],
            Some(60_000),
        ),
        (&["\"a\";r=0;t=5", "\"b\";r=0;t=7"], Some(7_000)),
        (&["\"a\";r=3;t=5;r=0"], Some(5_000)),
        (&["\"a\";q;w=?1;x=%\"z%20\";y=@17;z=1.5;r=0;t=0"], Some(0)),
        (
            &["\"\\\"\\\\\";r=0;t=999999999999999"],
            Some(999_999_999_999_999_000),
        ),
        (&["\"a\";r=1;t=5"], None),
        (&["\"a\";r=0"], None),
        (&["\"a\";t=5"], None),
        (&["\"a\";r=0;t=-5"], None),
        (&["\"a\";r=0;t=5.0"], None),
        (&["\"a\";r=0.0;t=5"], None),
        (&["\"a\";r=\"0\";t=5"], None),
        (&["\"a\";r=0;t"], None),
    ] {
        assert_eq!(read(lines), expected, "{lines:?}");
    }
}

#[test]
fn a_field_that_is_malformed_anywhere_is_ignored() {
    for bad in [
        "",
        ",",
        "\"b",
        "\"b\\n\"",
        "\"b\";",
        "\"b\";R=1",
        "\"b\";r=",
        "\"b\";r=--1",
        "\"b\";r=1.",
        "\"b\";r=1.2345",
        "\"b\";r=1234567890123456",
        "\"b\";r=1234567890123.5",
        "\"b\";v=?2",
        "\"b\";v=:A",
        "\"b\";v=@1.5",
        "\"b\";v=%a",
        "\"b\" \"c\"",
        "(\"b\" \"c\");r=0;t=9",
        "limit=10, remaining=0, reset=5",
    ] {
        assert_eq!(read(&[bad]), None, "{bad}");
        assert_eq!(read(&["\"a\";r=0;t=5", bad]), None, "{bad}");
        assert_eq!(read(&[&format!("\"a\";r=0;t=5, {bad}")]), None, "{bad}");
    }
}

#[test]
fn unless_asked_for_it_is_not_read() {
    let headers = headers([("ratelimit", "\"default\";r=0;t=5")]);
    assert_eq!(LENIENT.parse(&headers, no_clock), Advice::Nothing);
}
