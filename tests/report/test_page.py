import json
import re

import pandas as pd
import pytest

from cxr_sklearn import compare


@pytest.fixture(scope="module")
def page(embedded_frame, tmp_path_factory):
    frame, store = embedded_frame
    out = tmp_path_factory.mktemp("run")
    compare(frame, ["vgg16_logistic", "shortcuts"], out=out, weights="random", store=store, cv=3)
    return (out / "report.html").read_text(), json.loads((out / "metrics.json").read_text()), out


def test_the_page_is_self_contained(page):
    html, _, _ = page
    assert not re.findall(r'(?:src|href)="(?!#)', html.replace('xlink:href="#', ""))
    assert "<script" not in html
    assert len(html) < 3_000_000


def test_every_metric_is_shown(page):
    html, metrics, _ = page
    for facts in metrics["pipelines"].values():
        for metric in facts["test"]:
            assert f"<td>{facts['test'][metric]['value']:.3f}</td>" in html
            assert f"{facts['cv'][metric]['mean']:.3f} ± {facts['cv'][metric]['std']:.3f}" in html
        assert f"<td>{facts['threshold']['value']:.3f}</td>" in html


def test_random_weights_are_called_that_in_every_table(page):
    html, _, _ = page
    tables = [table for table in html.split("<table>")[1:] if "vgg16_logistic" in table.split("</table>")[0]]
    assert len(tables) == 4
    assert all("vgg16_logistic (random weights)" in table for table in tables)
    assert "vgg16_logistic (random weights)" in html[html.index("<svg") :]
    assert "shortcuts (random weights)" not in html


def test_names_are_only_names(page, embedded_frame, tmp_path):
    from cxr_sklearn.evaluation.scores import read_scores
    from cxr_sklearn.evaluation.training import training_table
    from cxr_sklearn.report.page import write_report

    _, metrics, out = page
    evil = '<img src=x onerror="alert(1)">'
    renamed = {evil: metrics["pipelines"]["shortcuts"]}
    scores = read_scores(out / "scores.csv").assign(pipeline=evil).drop_duplicates("path")
    training = training_table(evil, {"all": {"loss": [1.0], "auc": [0.5]}})
    write_report({**metrics, "pipelines": renamed}, scores, training, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "onerror" in html
    assert "<img" not in html


def test_what_stands_out_and_how_the_training_went(page, tmp_path):
    from cxr_sklearn.evaluation.scores import read_scores
    from cxr_sklearn.evaluation.training import training_table
    from cxr_sklearn.report.page import write_report

    html, metrics, out = page
    assert "What stands out" not in html
    assert "How the training went" not in html
    pipelines = json.loads(json.dumps(metrics["pipelines"]))
    pipelines["shortcuts"]["diagnosis"] = ["It calls <everything> pneumonia."]
    phases = {
        "head": {"loss": [1.0, 0.5], "auc": [0.5, 0.75]},
        "all": {"loss": [0.25], "auc": [1.0], "val_loss": [0.5]},
    }
    training = training_table("shortcuts", phases)
    write_report({**metrics, "pipelines": pipelines}, read_scores(out / "scores.csv"), training, tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert "<dd>It calls &lt;everything&gt; pneumonia.</dd>" in html
    section = html[html.index("How the training went") : html.index("Thresholds and parameters")]
    assert section.count("<svg") == 1
    assert all(word in section for word in ("shortcuts", "validation", "ROC AUC", "last layers too"))


def test_scores_alone_give_the_report_again(page, tmp_path):
    from cxr_sklearn.evaluation.compare import write_results

    html, metrics, out = page
    pd.read_csv(out / "scores.csv").to_csv(tmp_path / "scores.csv", index=False)
    kept = ("description", "backbones", "n_embedded", "n_cached", "best_params", "seconds", "balance", "batch_norm")
    facts = {name: {key: facts[key] for key in kept} for name, facts in metrics["pipelines"].items()}
    assert write_results(tmp_path, {**metrics, "pipelines": facts}) == metrics
    assert (tmp_path / "report.html").read_text() == html
