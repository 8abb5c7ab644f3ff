import torch

from noprop_helpers.lab.digits_script import FILE, digits_script, packed


def test_the_pages_file_is_what_the_function_writes(digits):
    assert FILE.read_text() == digits_script(digits)


def test_levels_of_ink_are_letters_and_blanks_are_counted():
    assert packed(torch.tensor([[0, 0, 1], [16, 16, 0]])) == "bAPPa"
    assert packed(torch.tensor([0] * 26)) == "z"
    assert packed(torch.tensor([0] * 53 + [2])) == "zzaB"
