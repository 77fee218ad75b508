//! What stands on the page.

use super::*;
use crate::experiment::figures::Figures;
use crate::experiment::machine::Machine;
use crate::experiment::plan::Measure;

fn measured(workers: &str, figures: &[(&str, f64)]) -> Measured {
    Measured {
        experiment: "scaling".to_owned(),
        point: [("workers".to_owned(), workers.to_owned())].into(),
        system: "tidemill".to_owned(),
        model: "mlp-16".to_owned(),
        measure: Measure::Drain,
        repetition: 1,
        figures: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<Figures>(),
        error: None,
        machine: Machine { cpu: "a <cpu>".to_owned(), cores: 2, commit: "abc".to_owned() },
    }
}

#[test]
fn the_page_shows_medians_plots_and_the_law_and_asks_nobody_for_anything() {
    let runs = [
        measured("1", &[("records_per_second", 100.0), ("lost", 0.0)]),
        measured("1", &[("records_per_second", 120.0), ("lost", 0.0)]),
        measured("1", &[("records_per_second", 110.0), ("lost", 0.0)]),
        measured("2", &[("records_per_second", 190.0), ("lost", 3.0)]),
        measured("4", &[("records_per_second", 300.0), ("lost", 0.0)]),
    ];
    let page = page("scaling & more", "why?", &runs).unwrap();
    assert!(page.contains("<h1>scaling &amp; more</h1>") && page.contains("a &lt;cpu&gt;, 2 cores"));
    assert!(page.contains("<td>workers 1</td><td>3</td><td>110</td>"), "{page}");
    assert!(page.contains("<td class=\"bad\">3</td>"));
    assert!(page.contains("Universal Scalability Law: "));
    assert_eq!(page.matches("<svg").count(), 2);
    for outside in ["href", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn each_plot_has_a_file_of_its_own() {
    let runs = ["1", "2", "4"]
        .map(|workers| measured(workers, &[("records_per_second", 100.0), ("p50_ms", 1.0), ("p99_ms", 2.0)]));
    let plots = plots(&runs).unwrap();
    let names: Vec<String> = plots.iter().map(Plot::file_name).collect();
    assert_eq!(names, ["records-a-second-by-workers.svg", "latency-by-workers.svg", "scaling.svg"]);
    assert!(plots.iter().all(|plot| plot.svg.starts_with("<svg")));
}

#[test]
fn what_failed_is_told() {
    let failed = Measured { error: Some("the broker went <away>".to_owned()), ..measured("1", &[]) };
    let page = page("t", "", &[failed]).unwrap();
    assert!(page.contains("failed: the broker went &lt;away&gt;"));
}

#[test]
fn stages_of_the_floor_and_the_rest_are_a_bar() {
    let stages = Floor::KEYS.map(|key| (key, 100.0));
    let run = measured("1", &[&stages[..], &[("cpu_ns_per_record", 650.0)]].concat());
    let rows = rows(&[run]);
    assert_eq!(split(&rows[0]).unwrap().1, [100.0, 100.0, 100.0, 100.0, 100.0, 150.0]);
}

#[test]
fn durations_are_an_axis_too() {
    assert_eq!((number("50ms"), number("2"), number("key")), (Some(50.0), Some(2.0), None));
}
