# the exercises as an nbgrader course: run nbgrader in this folder
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "minidistill"
c.CourseDirectory.source_directory = "."  # exercises/*.ipynb is the assignment "exercises"
c.CourseDirectory.db_url = "sqlite:///gradebook.db"
c.ExecutePreprocessor.timeout = 60  # seconds a cell; the graded ones stop by themselves after 20
c.ExecutePreprocessor.interrupt_on_timeout = True  # and the next cell is still run
