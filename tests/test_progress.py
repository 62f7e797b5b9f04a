"""What is shown while training goes on."""

from dualnet.cli.progress import Progress, train_text


def line(step, loss, **more):
    return {"step": step, "split": "train", "loss": loss, "time_s": 2.0 * step,
            "images_per_s": 100.0, "wait_share": 0.25, **more}


def test_a_line_joins_both_roles_at_the_same_step(capsys):
    progress = Progress(100, ("net1", "net2"))
    progress.show("net1", line(10, 3.0))
    assert capsys.readouterr().err == ""
    progress.show("net2", line(10, 2.0, accuracy=0.5, images_per_s=90.0, wait_share=0.5))
    # 2 s per iteration, 90 left: 180 s
    assert capsys.readouterr().err == (
        "step 10/100  loss1 3  loss2 2  accuracy 0.500  90 images/s  wait 25/50 %  ETA 0:03:00\n")
    progress.show("net1", line(20, 3.0))
    assert capsys.readouterr().err == ""


def test_a_single_process_has_one_loss_and_no_wait():
    assert train_text([line(5, 1.5, accuracy=1.0, wait_share=0.0)]) == (
        "loss 1.5  accuracy 1.000  100 images/s")
    assert "loss nan" in train_text([line(5, None)])


def test_a_collapse_is_told_once(capsys):
    progress = Progress(100, ("net2",))
    for step in (10, 20):
        progress.show("net2", line(step, 2.3, **{"dual/collapsed": True, "dual/norm_y": 0.01}))
    assert capsys.readouterr().err.count("the net collapses") == 1


def test_test_scores_are_shown_as_they_come_and_quiet_shows_nothing(capsys):
    score = {"step": 50, "split": "test", "accuracy": 0.5, "dual/accuracy_merged": 0.25}
    Progress(100, ("net1", "net2")).show("net2", score)
    assert capsys.readouterr().err == (
        "step 50: test accuracy 50.00 % through conv3', 25.00 % through conv3\n")
    Progress(100, ("net2",), quiet=True).show("net2", score)
    assert capsys.readouterr().err == ""


def test_a_roll_back_is_told_once_and_forgets_what_it_has_undone(capsys):
    progress = Progress(100, ("net1", "net2"), run="runs/some")
    progress.show("net1", line(30, 3.0))
    for role in ("net1", "net2"):
        progress.show(role, {"step": 20, "split": "resume", "generation": 2, "base": 1})
    assert capsys.readouterr().err == "resuming runs/some from iteration 20\n"
    progress.show("net2", line(30, 2.0))
    assert capsys.readouterr().err == ""        # net1 has not reached iteration 30 again
    progress.show("net1", line(30, 3.0))
    assert capsys.readouterr().err.startswith("step 30/100  loss1 3  loss2 2")
    progress.show("net1", {"step": 0, "split": "resume", "generation": 3, "base": 0})
    assert capsys.readouterr().err == "resuming runs/some from iteration 0\n"
