# the exercises as an nbgrader course: run nbgrader in this folder
from concurrent.futures import ThreadPoolExecutor

from nbformat.v4 import new_output
from nbgrader.preprocessors import LimitOutput, NbGraderPreprocessor, SaveAutoGrades
from nbgrader.utils import is_grade

from minidistill.checks.apart import judge, notebook_cells


class Apart(NbGraderPreprocessor):
    """Grade each answer in a process of its own, two at a time, where nbgrader has one kernel for all."""

    def preprocess(self, notebook, resources):
        cells, graded = notebook_cells(notebook), [cell for cell in notebook.cells if is_grade(cell)]
        ask = lambda cell: judge(cells, cell.metadata.nbgrader.grade_id.removesuffix("_test"), cell.source)
        with ThreadPoolExecutor(2) as pool:
            for cell, sentence in zip(graded, pool.map(ask, graded)):
                lines = sentence.splitlines()
                cell.outputs = [
                    new_output("error", ename="Wrong", evalue=line, traceback=lines) for line in lines[:1]
                ]
        return notebook, resources


c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minidistill"
c.CourseDirectory.source_directory = "."  # exercises/*.ipynb is the assignment "exercises"
c.CourseDirectory.db_url = "sqlite:///gradebook.db"
c.Autograde.autograde_preprocessors = [Apart, LimitOutput, SaveAutoGrades]
c.OverwriteCells.add_missing_cells = True  # a test that was deleted is run all the same
c.ExecutePreprocessor.timeout = 60  # seconds a cell, for `nbgrader validate`
