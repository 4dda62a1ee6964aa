//! Curves as SVG.

use crate::storm::{Master, Outcome, Storm};
use std::fmt::Write;

const WIDTH: f64 = 900.0;
const PANEL: f64 = 260.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const COLOURS: [&str; 3] = ["#c0392b", "#2471a3", "#1e8449"];

/// How much of the fleet is back after the outage: a panel for each outage, a colour for each jitter, a line for each
/// kind of master.
pub fn svg(runs: &[(Storm, Outcome)]) -> String {
    let mut outages: Vec<_> = runs.iter().map(|(storm, _)| storm.outage).collect();
    outages.dedup();
    let height = TOP + PANEL * outages.len() as f64 + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let links = runs.first().map_or(0, |(storm, _)| storm.links);
    let capacity = runs.first().map_or(0, |(storm, _)| storm.capacity);
    line(&mut svg, LEFT, 20.0, &format!("Part of {links} agents that is back, master takes {capacity} a second"));
    for (index, outage) in outages.iter().enumerate() {
        let top = TOP + PANEL * index as f64;
        let panel: Vec<_> = runs.iter().filter(|(storm, _)| storm.outage == *outage).collect();
        self::panel(&mut svg, top, &format!("after an outage of {} s", outage.as_secs()), &panel);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, top: f64, title: &str, runs: &[&(Storm, Outcome)]) {
    let (right, bottom) = (WIDTH - 190.0, top + PANEL - 50.0);
    // Long tails end outside.
    let longest = runs.iter().map(|(_, outcome)| outcome.back.len()).max().unwrap_or(1).clamp(1, 1_800) as f64;
    let x = |second: f64| LEFT + (right - LEFT) * second / longest;
    let y = |part: f64| bottom - (bottom - top - 20.0) * part;
    line(svg, LEFT, top + 12.0, title);
    put(
        svg,
        format_args!("<path d=\"M{LEFT} {:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"black\"/>\n", top + 20.0),
    );
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        line(svg, 22.0, y(part) + 4.0, &format!("{:.0} %", part * 100.0));
        line(svg, x(longest * part) - 10.0, bottom + 16.0, &format!("{:.0} s", longest * part));
    }
    let mut jitters: Vec<f64> = runs.iter().map(|(storm, _)| storm.jitter).collect();
    jitters.dedup();
    for (index, (storm, outcome)) in runs.iter().enumerate() {
        let place = jitters.iter().position(|jitter| *jitter == storm.jitter).expect("one of them");
        let colour = COLOURS[place % COLOURS.len()];
        let dashes = match storm.master {
            Master::Paced => "",
            Master::Clairvoyant => " stroke-dasharray=\"7 3\"",
            Master::Plain => " stroke-dasharray=\"2 3\"",
        };
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        let mut sum = 0;
        for (second, back) in outcome.back.iter().enumerate().take(longest as usize) {
            sum += back;
            let point = (x(second as f64 + 1.0), y(sum as f64 / storm.links as f64));
            let _ = write!(path, "L{:.1} {:.1}", point.0, point.1); // to a String: cannot fail
        }
        put(svg, format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"{dashes}/>\n"));
        let row = top + 34.0 + 18.0 * index as f64;
        let (from, to) = (right + 15.0, right + 45.0);
        put(svg, format_args!("<path d=\"M{from:.1} {row:.1}H{to:.1}\" stroke=\"{colour}\"{dashes}/>\n"));
        let paced = match storm.master {
            Master::Paced => "paced",
            Master::Clairvoyant => "no dead work",
            Master::Plain => "as they come",
        };
        line(svg, right + 52.0, row + 4.0, &format!("jitter {}, {paced}", storm.jitter));
    }
}

fn line(svg: &mut String, x: f64, y: f64, text: &str) {
    put(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"));
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = svg.write_fmt(text); // to a String: cannot fail
}
