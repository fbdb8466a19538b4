from __future__ import annotations

import logging

import pytest
import torch
from diffusers import DDPMScheduler

from library.core.errors import UserError
from library.models.noise_schedule import noise_process, training_betas

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.01, "num_train_timesteps": 100},
    ],
)
def test_betas_are_those_of_diffusers(settings):
    torch.testing.assert_close(training_betas(settings).float(), DDPMScheduler(**settings).betas, rtol=1e-5, atol=1e-9)


def test_settings_left_out_are_those_of_stable_diffusion():
    betas = training_betas({})
    assert len(betas) == 1000
    assert betas[0].item() == pytest.approx(0.00085)
    assert betas[-1].item() == pytest.approx(0.012)


def test_trained_betas_are_taken_as_they_are():
    assert training_betas({"trained_betas": [0.1, 0.2], "beta_schedule": "unheard"}).tolist() == [0.1, 0.2]


def test_an_unknown_schedule_is_told():
    with pytest.raises(UserError, match="beta_schedule is 'sigmoid'; known are linear, scaled_linear"):
        noise_process({"beta_schedule": "sigmoid"}, "eps", False, CPU)


def test_pure_noise_at_the_end_is_questioned_for_noise_prediction(caplog):
    with caplog.at_level(logging.WARNING):
        noise_process({}, "v", True, CPU)
        assert not caplog.records
        noise_process({}, "eps", True, CPU)
    assert "predicts noise" in caplog.text
